// SPDX-License-Identifier: Apache-2.0
#include "evaluation/text_metrics.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <unordered_map>

#include "base/error.h"
#include "text/unicode.h"

namespace polyad {
namespace {

constexpr std::string_view ascii_punctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// Bytes of the Unicode white space at s[i], 0 when there is none: U+0009-000D, 001C-0020, 0085, 00A0, 1680,
/// 2000-200A, 2028, 2029, 202F, 205F, 3000.
size_t white_space_at(std::string_view s, size_t i) {
    const auto byte = [&](size_t k) -> unsigned {
        return k < s.size() ? static_cast<unsigned char>(s[k]) : 0u;
    };
    const unsigned b0 = byte(i), b1 = byte(i + 1), b2 = byte(i + 2);
    if (b0 < 0x80) return (b0 >= 0x09 && b0 <= 0x0D) || (b0 >= 0x1C && b0 <= 0x20) ? 1 : 0;
    if (b0 == 0xC2) return b1 == 0x85 || b1 == 0xA0 ? 2 : 0;
    if (b0 == 0xE1) return b1 == 0x9A && b2 == 0x80 ? 3 : 0;
    if (b0 == 0xE2 && b1 == 0x80)
        return (b2 >= 0x80 && b2 <= 0x8A) || b2 == 0xA8 || b2 == 0xA9 || b2 == 0xAF ? 3 : 0;
    if (b0 == 0xE2 && b1 == 0x81) return b2 == 0x9F ? 3 : 0;
    if (b0 == 0xE3) return b1 == 0x80 && b2 == 0x80 ? 3 : 0;
    return 0;
}

double f_measure(const std::vector<int>& p, const std::vector<int>& r) {
    if (p.empty() || r.empty()) return 0.0;
    std::vector<int> row(r.size() + 1,
                         0);  // row[j]: LCS of the prediction so far and the first j reference tokens
    for (int token : p) {
        int diagonal = 0;
        for (size_t j = 1; j <= r.size(); ++j) {
            const int above = row[j];
            row[j] = token == r[j - 1] ? diagonal + 1 : std::max(above, row[j - 1]);
            diagonal = above;
        }
    }
    if (row.back() == 0) return 0.0;
    const double precision = static_cast<double>(row.back()) / static_cast<double>(p.size());
    const double recall = static_cast<double>(row.back()) / static_cast<double>(r.size());
    return 2.0 * precision * recall / (precision + recall);
}

[[noreturn]] void refuse(const char* reason, const std::string& message) {
    throw Error(Code::invalid_argument, message, reason);
}

}  // namespace

std::string normalize_answer(std::string_view source) {
    const std::string lower = lowercase(source);
    std::string out;
    out.reserve(lower.size());
    bool gap = false;
    for (size_t i = 0; i < lower.size();) {
        if (const size_t space = white_space_at(lower, i)) {
            gap = true;
            i += space;
        } else {
            const char c = lower[i++];
            if (ascii_punctuation.find(c) != std::string_view::npos) continue;
            if (gap && !out.empty()) out += ' ';
            gap = false;
            out += c;
        }
    }
    return out;
}

std::vector<std::string> rouge_tokens(std::string_view source) {
    const std::string lower = lowercase(source);
    std::vector<std::string> tokens;
    for (size_t i = 0; i < lower.size();) {
        size_t end = i;
        while (end < lower.size() &&
               ((lower[end] >= 'a' && lower[end] <= 'z') || (lower[end] >= '0' && lower[end] <= '9')))
            ++end;
        if (end == i) {
            ++i;
            continue;
        }
        const std::string_view run = std::string_view(lower).substr(i, end - i);
        tokens.push_back(run.size() > 3 ? porter_stem(run) : std::string(run));
        i = end;
    }
    return tokens;
}

bool exact_match(std::string_view prediction, std::string_view reference) {
    return normalize_answer(prediction) == normalize_answer(reference);
}

double rouge_l(const std::vector<std::string>& prediction, const std::vector<std::string>& reference) {
    std::unordered_map<std::string_view, int> ids;
    const auto number = [&](const std::vector<std::string>& tokens) {
        std::vector<int> out;
        for (const std::string& token : tokens)
            out.push_back(ids.try_emplace(token, static_cast<int>(ids.size())).first->second);
        return out;
    };
    const std::vector<int> p = number(prediction), r = number(reference);
    return f_measure(p, r);
}

TextScore text_score(std::string_view prediction, const std::vector<std::string>& references) {
    if (references.empty()) refuse("empty_references", "a prediction cannot be scored without a reference");
    const std::string normal = normalize_answer(prediction);
    const std::vector<std::string> tokens = rouge_tokens(prediction);
    TextScore best;
    for (const std::string& reference : references) {
        if (normal == normalize_answer(reference)) best.exact_match = 1.0;
        best.rouge_l = std::max(best.rouge_l, rouge_l(tokens, rouge_tokens(reference)));
    }
    return best;
}

double round4(double value) {
    char digits[400];  // printf rounds the exact binary value, halves to even
    std::snprintf(digits, sizeof digits, "%.4f", value);
    return std::strtod(digits, nullptr);
}

TextScore ScoreSum::percent() const {
    if (count_ == 0) return {};
    const double n = static_cast<double>(count_);
    return {round4(100.0 * exact_match_ / n), round4(100.0 * rouge_l_ / n)};
}

CorpusScore corpus_score(const std::vector<std::string>& predictions,
                         const std::vector<std::vector<std::string>>& references,
                         const std::vector<std::string>& groups) {
    if (predictions.empty() || predictions.size() != references.size() ||
        (!groups.empty() && groups.size() != predictions.size()))
        refuse("length_mismatch",
               text("predictions, references and groups must be equally many and at least one, got ",
                    predictions.size(), ", ", references.size(), " and ", groups.size()));
    ScoreSum all;
    std::map<std::string, ScoreSum> by_group;
    for (size_t i = 0; i < predictions.size(); ++i) {
        const TextScore score = text_score(predictions[i], references[i]);
        all.add(score);
        if (!groups.empty()) by_group[groups[i]].add(score);
    }
    CorpusScore out;
    out.overall = all.percent();
    for (const auto& [name, sum] : by_group) out.groups[name] = sum.percent();
    return out;
}

}  // namespace polyad
