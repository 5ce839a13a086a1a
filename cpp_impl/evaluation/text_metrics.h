// SPDX-License-Identifier: Apache-2.0
// Exact match and ROUGE-L as the official evaluator of Super-NaturalInstructions computes them (English
// track, arXiv 2204.07705), down to its stemmer and its white space.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace polyad {

/// Lower case (full Unicode mapping), ASCII punctuation deleted, runs of Unicode white space made one space,
/// trimmed.
std::string normalize_answer(std::string_view text);
/// The runs of [a-z0-9] of the lower-cased text, those longer than three characters stemmed.
std::vector<std::string> rouge_tokens(std::string_view text);
/// Porter's algorithm with NLTK's modifications; `word` is lower-case [a-z0-9].
std::string porter_stem(std::string_view word);

/// 1 when the normalised texts are equal.
bool exact_match(std::string_view prediction, std::string_view reference);
/// F-measure of the longest common subsequence, 0 to 1.
double rouge_l(const std::vector<std::string>& prediction, const std::vector<std::string>& reference);

struct TextScore {
    double exact_match = 0.0, rouge_l = 0.0;
};

/// The best over the references, each 0 to 1. No references: Code::invalid_argument, detail
/// "empty_references".
TextScore text_score(std::string_view prediction, const std::vector<std::string>& references);

struct CorpusScore {
    TextScore overall;                        ///< percent, rounded to 4 decimals
    std::map<std::string, TextScore> groups;  ///< the same per group
};

/// 100 times the mean over examples. `groups` is empty or has one name per example. Different lengths or no
/// example: Code::invalid_argument, detail "length_mismatch".
CorpusScore corpus_score(const std::vector<std::string>& predictions,
                         const std::vector<std::vector<std::string>>& references,
                         const std::vector<std::string>& groups = {});

/// Sums scores one by one and closes them as corpus_score does.
class ScoreSum {
  public:
    void add(const TextScore& score) {
        exact_match_ += score.exact_match;
        rouge_l_ += score.rouge_l;
        ++count_;
    }
    int64_t count() const { return count_; }
    /// Percent, rounded to 4 decimals; zeros when nothing was added.
    TextScore percent() const;

  private:
    double exact_match_ = 0.0, rouge_l_ = 0.0;
    int64_t count_ = 0;
};

/// Rounds to 4 decimals, halves of the binary value to even, as the official evaluator prints.
double round4(double value);

}  // namespace polyad
