// SPDX-License-Identifier: Apache-2.0
// The parts of WordNet's database files (Debian: wordnet-base) the demo's tasks are made of. Formats:
// wndb(5WN), cntlist(5WN).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

enum class Pos : int { noun = 0, verb = 1, adjective = 2, adverb = 3 };
constexpr int pos_count = 4;

struct Sense {
    int lexicographer_file = 0;  ///< lexnames(5WN): 5 animal, 6 artifact, 8 body, ...
    int tag_count = 0;           ///< how often this sense was marked in WordNet's tagged texts
    std::string word;            ///< as spelt in the synset: capital letters mark a name
    bool rude = false;           ///< the definition says so: offensive, obscene, ...
};

/// A pointer from one word to another word (not from meaning to meaning), such as an antonym.
struct Link {
    std::string from, to;
    Pos from_pos, to_pos;
    int to_lexicographer_file = 0;
};

class WordNet {
  public:
    explicit WordNet(const std::filesystem::path& folder);

    /// Senses of a lower-case single word, most frequent first; empty when WordNet does not know it.
    const std::vector<Sense>& senses(const std::string& word, Pos pos) const;
    /// How often the word was tagged with this part of speech.
    int tag_count(const std::string& word, Pos pos) const;
    /// How common the word is: all its tags, and its occurrences in the definitions of other words.
    int frequency(const std::string& word) const;
    /// No sense of it is marked as rude.
    bool decent(const std::string& word) const;
    /// All decent, single, lower-case words of a part of speech, most frequent first, then by the alphabet.
    std::vector<std::string> words(Pos pos) const;

    const std::vector<Link>& antonyms() const { return antonyms_; }
    const std::vector<Link>& derivations() const { return derivations_; }
    /// Irregular inflections of a part of speech: {base form, inflected form}, in file order.
    const std::vector<std::pair<std::string, std::string>>& exceptions(Pos pos) const;
    const std::string& licence() const { return licence_; }

  private:
    struct Synset {
        int lexicographer_file = 0;
        bool rude = false;
        std::vector<std::string> words;
    };
    struct RawLink {
        Pos pos, target_pos;
        int64_t source, target;
        int source_word, target_word;
        char kind;
    };

    void read_data(const std::filesystem::path& file, Pos pos, std::vector<RawLink>& links);
    void read_index(const std::filesystem::path& file, Pos pos);
    void read_counts(const std::filesystem::path& file);
    void read_gloss(const std::string& gloss, Synset& synset);
    void read_exceptions(const std::filesystem::path& file, Pos pos);

    std::map<int64_t, Synset> synsets_[pos_count];
    std::map<std::string, std::vector<Sense>> senses_[pos_count];
    std::map<std::string, int> gloss_counts_;
    std::vector<Link> antonyms_, derivations_;
    std::vector<std::pair<std::string, std::string>> exceptions_[pos_count];
    std::string licence_;
};

/// Only the letters a to z.
bool is_plain_word(const std::string& text);
