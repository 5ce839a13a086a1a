// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <set>

#include "demo_tasks.h"

namespace {

bool usable(const std::string& word) {
    return is_plain_word(word) && word.size() >= 3 && word.size() <= 14;
}

bool ends_with(const std::string& text, const std::string& end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

void add_once(std::vector<std::string>& list, const std::string& text) {
    if (std::find(list.begin(), list.end(), text) == list.end()) list.push_back(text);
}

/// One of each class in turn, so that any number of examples taken from the front is balanced.
std::vector<DemoExample> interleave(const std::vector<std::vector<DemoExample>>& classes) {
    std::vector<DemoExample> mixed;
    for (size_t i = 0, added = 1; added; ++i) {
        added = 0;
        for (const auto& examples : classes) {
            if (i >= examples.size()) continue;
            mixed.push_back(examples[i]);
            ++added;
        }
    }
    return mixed;
}

/// Keeps decent words, the most frequent first; ties keep their order.
void sort_by_frequency(std::vector<DemoExample>& examples, const WordNet& wordnet) {
    examples.erase(std::remove_if(examples.begin(), examples.end(),
                                  [&](const DemoExample& example) { return !wordnet.decent(example.input); }),
                   examples.end());
    std::stable_sort(examples.begin(), examples.end(), [&](const DemoExample& a, const DemoExample& b) {
        return wordnet.frequency(a.input) > wordnet.frequency(b.input);
    });
}

/// What the rules of spelling make of a noun; "echo" takes -es without a rule.
bool is_regular_plural(const std::string& noun, const std::string& plural) {
    if (plural == noun + "s") return true;
    for (const char* hiss : {"s", "x", "z", "ch", "sh"})
        if (ends_with(noun, hiss) && plural == noun + "es") return true;
    return ends_with(noun, "y") && plural == noun.substr(0, noun.size() - 1) + "ies";
}

/// Irregular inflected forms ("left", "men"), which have the part of speech of their base form too.
std::set<std::string> inflected_forms(const WordNet& wordnet) {
    std::set<std::string> forms;
    for (int i = 0; i < pos_count; ++i)
        for (const auto& [base, form] : wordnet.exceptions(static_cast<Pos>(i))) forms.insert(form);
    return forms;
}

/// "played", "causing", "higher", "seats": each is also a form of another word.
bool is_regular_form(const WordNet& wordnet, const std::string& word) {
    if (ends_with(word, "ed") || ends_with(word, "ing")) return true;
    const auto is_form_of = [&](Pos pos, const std::string& ending) {
        return ends_with(word, ending) &&
               !wordnet.senses(word.substr(0, word.size() - ending.size()), pos).empty();
    };
    return is_form_of(Pos::noun, "s") || is_form_of(Pos::adjective, "er") ||
           is_form_of(Pos::adjective, "est");
}

/// Tags of the word as anything but a noun.
int other_tags(const WordNet& wordnet, const std::string& word) {
    return wordnet.tag_count(word, Pos::verb) + wordnet.tag_count(word, Pos::adjective) +
           wordnet.tag_count(word, Pos::adverb);
}

}  // namespace

DemoTask word_category(const WordNet& wordnet) {
    struct Category {
        int lexicographer_file;
        const char* name;
    };
    constexpr std::array<Category, 6> categories = {
        {{5, "animal"}, {6, "artifact"}, {8, "body"}, {13, "food"}, {18, "person"}, {20, "plant"}}};
    std::vector<std::vector<DemoExample>> classes(categories.size());
    for (const std::string& word : wordnet.words(Pos::noun)) {
        if (!usable(word) || is_regular_form(wordnet, word)) continue;
        const std::vector<Sense>& senses = wordnet.senses(word, Pos::noun);
        const int first = senses.front().lexicographer_file;
        const auto category = std::find_if(categories.begin(), categories.end(),
                                           [&](const Category& c) { return c.lexicographer_file == first; });
        if (category == categories.end()) continue;
        // Clear cases only: every sense (or nearly every use) is of this category, no name, hardly ever a
        // verb.
        int same = 0, all = 0, same_senses = 0;
        for (const Sense& sense : senses) {
            all += sense.tag_count;
            if (sense.lexicographer_file == first) same += sense.tag_count, ++same_senses;
        }
        const bool clear =
            same_senses == static_cast<int>(senses.size()) || (all >= 3 && same * 10 >= all * 9);
        if (!clear || senses.front().word != word || other_tags(wordnet, word) > all / 5) continue;
        if (!wordnet.senses(word, Pos::verb).empty() || !wordnet.senses(word, Pos::adjective).empty())
            continue;
        classes[category - categories.begin()].push_back({word, {category->name}});
    }
    return {"word_category", "Is it an animal, artifact, body part (body), food, person or plant?",
            interleave(classes)};
}

DemoTask part_of_speech(const WordNet& wordnet) {
    const char* const names[pos_count] = {"noun", "verb", "adjective", "adverb"};
    const std::set<std::string> inflected = inflected_forms(wordnet);
    std::vector<std::vector<DemoExample>> classes(pos_count);
    for (int i = 0; i < pos_count; ++i) {
        for (const std::string& word : wordnet.words(static_cast<Pos>(i))) {
            if (!usable(word) || inflected.count(word) || is_regular_form(wordnet, word)) continue;
            bool only = wordnet.senses(word, static_cast<Pos>(i)).front().word == word;
            for (int other = 0; other < pos_count; ++other)
                only = only && (other == i || wordnet.senses(word, static_cast<Pos>(other)).empty());
            if (only) classes[i].push_back({word, {names[i]}});
        }
    }
    return {"part_of_speech", "Noun, verb, adjective or adverb?", interleave(classes)};
}

DemoTask antonym(const WordNet& wordnet, WordGroups& groups) {
    std::map<std::string, std::vector<std::string>> antonyms;
    // Those of the word's main part of speech come first: an answer to "thin" is "thick" before "thicken".
    for (const bool main_use : {true, false}) {
        for (const Link& link : wordnet.antonyms()) {
            if (!usable(link.from) || !usable(link.to)) continue;
            int most = 0;
            for (int i = 0; i < pos_count; ++i)
                most = std::max(most, wordnet.tag_count(link.from, static_cast<Pos>(i)));
            if ((wordnet.tag_count(link.from, link.from_pos) == most) == main_use)
                add_once(antonyms[link.from], link.to);
        }
    }
    std::vector<DemoExample> examples;
    for (const auto& [word, others] : antonyms) {
        for (const std::string& other : others) groups.join(word, other);
        examples.push_back({word, others});
    }
    sort_by_frequency(examples, wordnet);
    return {"antonym", "Give the opposite.", std::move(examples)};
}

DemoTask noun_plural(const WordNet& wordnet) {
    std::map<std::string, std::vector<std::string>> plurals;
    for (const auto& [base, form] : wordnet.exceptions(Pos::noun)) {
        if (!usable(base) || base == form || wordnet.senses(base, Pos::noun).empty()) continue;
        if (is_regular_plural(base, form) || form.find("ing") != std::string::npos) continue;
        add_once(plurals[base], form);
    }
    std::vector<DemoExample> examples;
    for (const auto& [base, forms] : plurals) examples.push_back({base, forms});
    sort_by_frequency(examples, wordnet);
    return {"noun_plural", "Give the irregular plural.", std::move(examples)};
}

DemoTask verb_past(const WordNet& wordnet) {
    std::map<std::string, std::vector<std::string>> forms_of;
    for (const auto& [base, form] : wordnet.exceptions(Pos::verb)) {
        if (!usable(base) || ends_with(form, "ing") || ends_with(form, "s") || base == form) continue;
        if (wordnet.senses(base, Pos::verb).empty()) continue;
        add_once(forms_of[base], form);
    }
    std::vector<DemoExample> examples;
    for (auto& [base, forms] : forms_of) {
        // The list does not say which form is the past tense and which the participle. Kept is what is
        // certain: a single form that no participle looks like, or the one of two that is no participle
        // ("ate", "began").
        const auto participle = [&](const std::string& form) {
            return (ends_with(form, "n") && !ends_with(form, "an") && form != "won") ||
                   ends_with(form, "gone") || ends_with(form, "done") || ends_with(form, "borne");
        };
        std::vector<std::string> past;
        for (const std::string& form : forms)
            if (!participle(form)) past.push_back(form);
        if (past.size() == 2 && past[0].size() == past[1].size()) {  // begin: began, begun
            const auto [a, b] = std::mismatch(past[0].begin(), past[0].end(), past[1].begin());
            if (a != past[0].end() && *a == 'a' && *b == 'u') past.pop_back();
        }
        if (past.size() != 1) continue;
        const std::string form = past.front();
        // "burnt", "spelt": the regular form, which the list leaves out, is as good. "blest", "wrought":
        // hardly used.
        if (form == base + "t" || (ends_with(base, "ll") && form == base.substr(0, base.size() - 1) + "t"))
            continue;
        if (ends_with(base, "ss") || form == "wrought") continue;
        // Doubled l and s: British and American spelling differ.
        if (ends_with(form, "lled") && form.size() == base.size() + 3 && base.size() >= 5)
            past.push_back(base + "ed");
        if (ends_with(form, "ssed") && form.size() == base.size() + 3) past.push_back(base + "ed");
        examples.push_back({base, past});
    }
    sort_by_frequency(examples, wordnet);
    return {"verb_past", "Give the past tense.", std::move(examples)};
}

DemoTask verb_to_person(const WordNet& wordnet) {
    constexpr int person = 18;
    std::map<std::string, std::vector<std::string>> persons;
    for (const Link& link : wordnet.derivations()) {
        if (link.from_pos != Pos::verb || link.to_pos != Pos::noun || link.to_lexicographer_file != person)
            continue;
        if (!usable(link.from) || !usable(link.to) || link.from == link.to) continue;
        // A "computer" may be a person, but mostly is none.
        if (wordnet.senses(link.to, Pos::noun).front().lexicographer_file != person) continue;
        if (!ends_with(link.to, "er") && !ends_with(link.to, "or")) continue;
        if (link.from.compare(0, 3, link.to, 0, 3) != 0) continue;
        add_once(persons[link.from], link.to);
    }
    std::vector<DemoExample> examples;
    for (auto& [verb, nouns] : persons) {
        std::stable_sort(nouns.begin(), nouns.end(), [&](const std::string& a, const std::string& b) {
            return wordnet.frequency(a) > wordnet.frequency(b);
        });
        examples.push_back({verb, nouns});
    }
    sort_by_frequency(examples, wordnet);
    // By how common the person is: "teacher", "writer" and "player" come before "faller".
    std::stable_sort(examples.begin(), examples.end(), [&](const DemoExample& a, const DemoExample& b) {
        return wordnet.frequency(a.outputs.front()) > wordnet.frequency(b.outputs.front());
    });
    return {"verb_to_person", "Who does this?", std::move(examples)};
}
