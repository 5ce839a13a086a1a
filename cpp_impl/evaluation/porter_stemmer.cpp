// SPDX-License-Identifier: Apache-2.0
// M. F. Porter, "An algorithm for suffix stripping", 1980, with the modifications of NLTK's default mode
// (marked +). Positions, not copies: a stem X is always a prefix of the word at hand, so every test takes the
// prefix's length.
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "evaluation/text_metrics.h"

namespace polyad {
namespace {

struct Rule {
    std::string_view suffix, replacement;
};

constexpr Rule irregular[] = {
    // + whole words
    {"sky", "sky"},       {"skies", "sky"},       {"dying", "die"},       {"lying", "lie"},
    {"tying", "tie"},     {"news", "news"},       {"inning", "inning"},   {"innings", "inning"},
    {"outing", "outing"}, {"outings", "outing"},  {"canning", "canning"}, {"cannings", "canning"},
    {"howe", "howe"},     {"proceed", "proceed"}, {"exceed", "exceed"},   {"succeed", "succeed"},
};

class Stemmer {
  public:
    explicit Stemmer(std::string_view word) : w_(word) {}

    std::string run() {
        step1a();
        step1b();
        if (ends("y") && w_.size() > 2 && consonant(w_.size() - 2)) w_.back() = 'i';  // 1c, +
        step2();
        step3();
        step4();
        step5();
        return std::move(w_);
    }

  private:
    bool ends(std::string_view suffix) const { return w_.ends_with(suffix); }
    size_t stem(std::string_view suffix) const { return w_.size() - suffix.size(); }
    void replace(std::string_view suffix, std::string_view replacement) {
        w_.resize(stem(suffix));
        w_ += replacement;
    }

    /// y is a consonant at the start and after a vowel, a vowel after a consonant: in a run of y they
    /// alternate.
    bool consonant(size_t i) const {
        size_t first = i;
        while (first > 0 && w_[first] == 'y') --first;
        const auto vowel = [](char c) { return c == 'a' || c == 'e' || c == 'i' || c == 'o' || c == 'u'; };
        const bool start = !vowel(w_[first]);  // a leading y counts as a consonant
        return (i - first) % 2 == 0 ? start : !start;
    }
    /// Number of vowel-to-consonant changes in the first `n` letters.
    int measure(size_t n) const {
        int m = 0;
        for (size_t i = 1; i < n; ++i) m += !consonant(i - 1) && consonant(i);
        return m;
    }
    bool has_vowel(size_t n) const {
        for (size_t i = 0; i < n; ++i)
            if (!consonant(i)) return true;
        return false;
    }
    bool double_consonant(size_t n) const { return n >= 2 && w_[n - 1] == w_[n - 2] && consonant(n - 1); }
    bool consonant_vowel_consonant(size_t n) const {
        if (n == 2) return !consonant(0) && consonant(1);  // +
        const char last = n ? w_[n - 1] : 'w';
        return n >= 3 && consonant(n - 3) && !consonant(n - 2) && consonant(n - 1) && last != 'w' &&
               last != 'x' && last != 'y';
    }

    void step1a() {
        if (ends("ies") && w_.size() == 4) return replace("ies", "ie");  // +
        if (ends("sses")) return replace("sses", "ss");
        if (ends("ies")) return replace("ies", "i");
        if (!ends("ss") && ends("s")) replace("s", "");
    }

    void step1b() {
        if (ends("ied")) return replace("ied", w_.size() == 4 ? "ie" : "i");  // +
        if (ends("eed")) {
            if (measure(stem("eed")) > 0) replace("eed", "ee");
            return;
        }
        const std::string_view suffix = ends("ed") ? "ed" : ends("ing") ? "ing" : "";
        if (suffix.empty() || !has_vowel(stem(suffix))) return;
        replace(suffix, "");
        if (ends("at") || ends("bl") || ends("iz")) {
            w_ += 'e';
        } else if (double_consonant(w_.size())) {
            if (w_.back() != 'l' && w_.back() != 's' && w_.back() != 'z') w_.pop_back();
        } else if (measure(w_.size()) == 1 && consonant_vowel_consonant(w_.size())) {
            w_ += 'e';
        }
    }

    /// The first rule whose suffix matches is the only one considered.
    void first_match(std::span<const Rule> rules) {
        for (const Rule& rule : rules)
            if (ends(rule.suffix)) {
                if (measure(stem(rule.suffix)) > 0) replace(rule.suffix, rule.replacement);
                return;
            }
    }

    void step2() {
        while (ends("alli") && measure(stem("alli")) > 0) replace("alli", "al");  // +
        static constexpr Rule rules[] = {
            {"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"}, {"anci", "ance"}, {"izer", "ize"},
            {"bli", "ble"},     {"alli", "al"},     {"entli", "ent"}, {"eli", "e"},     {"ousli", "ous"},
            {"ization", "ize"}, {"ation", "ate"},   {"ator", "ate"},  {"alism", "al"},  {"iveness", "ive"},
            {"fulness", "ful"}, {"ousness", "ous"}, {"aliti", "al"},  {"iviti", "ive"}, {"biliti", "ble"},
            {"fulli", "ful"},
        };
        if (ends("logi")) {  // +; no other rule ends like it
            if (measure(w_.size() - 3) > 0) replace("logi", "log");
            return;
        }
        first_match(rules);
    }

    void step3() {
        static constexpr Rule rules[] = {
            {"icate", "ic"}, {"ative", ""}, {"alize", "al"}, {"iciti", "ic"},
            {"ical", "ic"},  {"ful", ""},   {"ness", ""},
        };
        first_match(rules);
    }

    void step4() {
        static constexpr std::string_view suffixes[] = {"al",  "ance",  "ence", "er",  "ic",  "able", "ible",
                                                        "ant", "ement", "ment", "ent", "ion", "ou",   "ism",
                                                        "ate", "iti",   "ous",  "ive", "ize"};
        for (std::string_view suffix : suffixes) {
            if (!ends(suffix)) continue;
            const size_t n = stem(suffix);
            if (measure(n) > 1 && (suffix != "ion" || w_[n - 1] == 's' || w_[n - 1] == 't'))
                replace(suffix, "");
            return;
        }
    }

    void step5() {
        if (ends("e")) {
            const size_t n = w_.size() - 1;
            const int m = measure(n);
            if (m > 1 || (m == 1 && !consonant_vowel_consonant(n))) w_.pop_back();
        }
        if (ends("ll") && measure(w_.size() - 1) > 1) w_.pop_back();
    }

    std::string w_;
};

}  // namespace

std::string porter_stem(std::string_view word) {
    for (const auto& [from, to] : irregular)
        if (word == from) return std::string(to);
    if (word.size() <= 2) return std::string(word);  // +
    return Stemmer(word).run();
}

}  // namespace polyad
