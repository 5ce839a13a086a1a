// SPDX-License-Identifier: Apache-2.0
#include "wordnet.h"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace {

const char* const pos_files[pos_count] = {"noun", "verb", "adj", "adv"};

std::ifstream open_file(const std::filesystem::path& path) {
    std::ifstream file(path);
    if (!file) throw std::runtime_error("cannot read " + path.string() + " (Debian package wordnet-base)");
    return file;
}

Pos pos_of(char letter) {
    switch (letter) {
        case 'n':
            return Pos::noun;
        case 'v':
            return Pos::verb;
        case 'r':
            return Pos::adverb;
        default:
            return Pos::adjective;  // 'a', and 's' for satellites
    }
}

/// Adjectives may carry their syntactic place: "galore(ip)".
std::string without_marker(std::string word) {
    if (!word.empty() && word.back() == ')') word.resize(std::min(word.size(), word.find('(')));
    return word;
}

}  // namespace

bool is_plain_word(const std::string& text) {
    return !text.empty() &&
           std::all_of(text.begin(), text.end(), [](char c) { return c >= 'a' && c <= 'z'; });
}

WordNet::WordNet(const std::filesystem::path& folder) {
    std::vector<RawLink> links;
    for (int i = 0; i < pos_count; ++i) {
        const std::string name = pos_files[i];
        read_data(folder / ("data." + name), static_cast<Pos>(i), links);
        read_index(folder / ("index." + name), static_cast<Pos>(i));
        read_exceptions(folder / (name + ".exc"), static_cast<Pos>(i));
    }
    read_counts(folder / "cntlist.rev");
    for (const RawLink& link : links) {
        const Synset& source = synsets_[static_cast<int>(link.pos)].at(link.source);
        const Synset& target = synsets_[static_cast<int>(link.target_pos)].at(link.target);
        Link resolved{source.words.at(link.source_word - 1), target.words.at(link.target_word - 1), link.pos,
                      link.target_pos, target.lexicographer_file};
        if (!is_plain_word(resolved.from) || !is_plain_word(resolved.to)) continue;
        (link.kind == '!' ? antonyms_ : derivations_).push_back(std::move(resolved));
    }
}

// offset lex_file type word_count(hex) {word lex_id} pointer_count {symbol offset pos source/target(hex)} ...
// | gloss
void WordNet::read_data(const std::filesystem::path& path, Pos pos, std::vector<RawLink>& links) {
    std::ifstream file = open_file(path);
    for (std::string line; std::getline(file, line);) {
        if (line.rfind("  ", 0) == 0) {  // the licence opens every file, each line numbered
            if (pos == Pos::noun && line.size() > 5) licence_ += line.substr(5) + "\n";
            continue;
        }
        std::istringstream fields(line);
        int64_t offset = 0;
        Synset synset;
        std::string type, word, lex_id;
        int words = 0, pointers = 0;
        fields >> offset >> synset.lexicographer_file >> type >> std::hex >> words >> std::dec;
        for (int i = 0; i < words && fields >> word >> lex_id; ++i)
            synset.words.push_back(without_marker(word));
        fields >> pointers;
        for (int i = 0; i < pointers; ++i) {
            std::string symbol, target_pos, ends;
            RawLink link{};
            fields >> symbol >> link.target >> target_pos >> ends;
            if (!fields) throw std::runtime_error(path.string() + ": broken line: " + line.substr(0, 60));
            link.source_word = std::stoi(ends.substr(0, 2), nullptr, 16);
            link.target_word = std::stoi(ends.substr(2, 2), nullptr, 16);
            if ((symbol != "!" && symbol != "+") || link.source_word == 0 || link.target_word == 0) continue;
            link.kind = symbol[0];
            link.pos = pos;
            link.source = offset;
            link.target_pos = pos_of(target_pos[0]);
            links.push_back(link);
        }
        read_gloss(line.substr(std::min(line.size(), line.find('|'))), synset);
        synsets_[static_cast<int>(pos)].emplace(offset, std::move(synset));
    }
}

void WordNet::read_gloss(const std::string& gloss, Synset& synset) {
    for (const char* mark :
         {"offensive", "obscene", "vulgar", "disparag", "derogat", "slur", "coitus", "sexual", "genital"})
        synset.rude = synset.rude || gloss.find(mark) != std::string::npos;
    std::string word;
    for (const char c : gloss + " ") {
        if (std::isalpha(static_cast<unsigned char>(c))) {
            word += c;
        } else if (!word.empty()) {
            if (is_plain_word(word)) ++gloss_counts_[word];
            word.clear();
        }
    }
}

// lemma pos synset_count pointer_count {symbol} sense_count tagged_count {offset}
void WordNet::read_index(const std::filesystem::path& path, Pos pos) {
    std::ifstream file = open_file(path);
    for (std::string line; std::getline(file, line);) {
        if (line.rfind("  ", 0) == 0) continue;
        std::istringstream fields(line);
        std::string lemma, skip;
        int synsets = 0, pointers = 0;
        fields >> lemma >> skip >> synsets >> pointers;
        if (!is_plain_word(lemma)) continue;
        for (int i = 0; i < pointers + 2; ++i) fields >> skip;
        std::vector<Sense>& senses = senses_[static_cast<int>(pos)][lemma];
        int64_t offset = 0;
        for (int i = 0; i < synsets && fields >> offset; ++i) {
            const Synset& synset = synsets_[static_cast<int>(pos)].at(offset);
            Sense sense;
            sense.lexicographer_file = synset.lexicographer_file;
            sense.rude = synset.rude;
            for (const std::string& word : synset.words) {
                std::string lower = word;
                std::transform(lower.begin(), lower.end(), lower.begin(),
                               [](unsigned char c) { return std::tolower(c); });
                if (lower == lemma) sense.word = word;
            }
            senses.push_back(std::move(sense));
        }
    }
}

// lemma%type:lex_file:lex_id:head:head_id sense_number tag_count
void WordNet::read_counts(const std::filesystem::path& path) {
    std::ifstream file = open_file(path);
    std::string key;
    int number = 0, count = 0;
    while (file >> key >> number >> count) {
        const size_t percent = key.rfind('%');
        if (percent == std::string::npos || percent + 1 >= key.size()) continue;
        const int type =
            key[percent + 1] - '0';  // 1 noun, 2 verb, 3 adjective, 4 adverb, 5 satellite adjective
        if (type < 1 || type > 5) continue;
        auto& senses = senses_[type == 5 ? 2 : type - 1];
        const auto found = senses.find(key.substr(0, percent));
        if (found == senses.end() || number < 1 || number > static_cast<int>(found->second.size())) continue;
        found->second[number - 1].tag_count = count;
    }
}

// inflected base [base...]
void WordNet::read_exceptions(const std::filesystem::path& path, Pos pos) {
    std::ifstream file = open_file(path);
    for (std::string line; std::getline(file, line);) {
        std::istringstream fields(line);
        std::string inflected, base;
        fields >> inflected;
        while (fields >> base) {
            if (is_plain_word(inflected) && is_plain_word(base))
                exceptions_[static_cast<int>(pos)].emplace_back(base, inflected);
        }
    }
}

const std::vector<Sense>& WordNet::senses(const std::string& word, Pos pos) const {
    static const std::vector<Sense> none;
    const auto found = senses_[static_cast<int>(pos)].find(word);
    return found == senses_[static_cast<int>(pos)].end() ? none : found->second;
}

int WordNet::tag_count(const std::string& word, Pos pos) const {
    int sum = 0;
    for (const Sense& sense : senses(word, pos)) sum += sense.tag_count;
    return sum;
}

int WordNet::frequency(const std::string& word) const {
    const auto in_glosses = gloss_counts_.find(word);
    int sum = in_glosses == gloss_counts_.end() ? 0 : in_glosses->second;
    for (int i = 0; i < pos_count; ++i) sum += tag_count(word, static_cast<Pos>(i));
    return sum;
}

bool WordNet::decent(const std::string& word) const {
    for (int i = 0; i < pos_count; ++i)
        for (const Sense& sense : senses(word, static_cast<Pos>(i)))
            if (sense.rude) return false;
    return true;
}

std::vector<std::string> WordNet::words(Pos pos) const {
    std::vector<std::pair<int, std::string>> ranked;
    for (const auto& [word, senses] : senses_[static_cast<int>(pos)])
        if (decent(word)) ranked.emplace_back(-frequency(word), word);
    std::sort(ranked.begin(), ranked.end());
    std::vector<std::string> words;
    for (auto& [count, word] : ranked) words.push_back(std::move(word));
    return words;
}

const std::vector<std::pair<std::string, std::string>>& WordNet::exceptions(Pos pos) const {
    return exceptions_[static_cast<int>(pos)];
}
