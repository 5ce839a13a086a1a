// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>

#include "base/bytes.h"
#include "base/config.h"
#include "base/error.h"
#include "evaluation/gain.h"
#include "evaluation/text_metrics.h"
#include "text/unicode.h"

namespace polyad {
namespace {

struct Golden {
    Json cases;
    double rtol = 0, atol = 0;
};

const Golden* golden() {
    static const std::filesystem::path path =
        std::filesystem::path(POLYAD_SHARED_DIR) / "golden/metrics.json";
    if (!std::filesystem::exists(path)) return nullptr;
    static const Golden loaded = [] {
        const Json file = parse_json(Bytes::map_file(path).text(), "metrics.json");
        return Golden{file.at("cases"), file.at("tolerance").at("rtol"), file.at("tolerance").at("atol")};
    }();
    return &loaded;
}

/// Runs `check` on every golden case of a kind; at least one must exist.
void for_each_case(const char* kind, const std::function<void(const Json& test, const Golden& file)>& check) {
    const Golden* file = golden();
    if (!file) GTEST_SKIP() << "golden/metrics.json is not there: " << POLYAD_SHARED_DIR;
    int count = 0;
    for (const Json& test : file->cases) {
        if (test.at("kind") != kind) continue;
        SCOPED_TRACE(test.at("name").get<std::string>());
        ++count;
        check(test, *file);
    }
    EXPECT_GT(count, 0) << "no case of kind " << kind;
}

void expect_close(double got, double want, const Golden& file) {
    EXPECT_NEAR(got, want, file.atol + file.rtol * std::abs(want));
}

/// Reason of a refused case, "" when it was not refused.
std::string refusal(const std::function<void()>& run) {
    try {
        run();
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), Code::invalid_argument);
        return e.detail();
    }
    return "";
}

std::vector<std::string> strings(const Json& list) {
    return list.get<std::vector<std::string>>();
}

TEST(Metrics, NormalizeAnswerGolden) {
    for_each_case("normalize_answer", [](const Json& test, const Golden&) {
        EXPECT_EQ(normalize_answer(test.at("input").at("text").get<std::string>()), test.at("expected"));
    });
}

TEST(Metrics, RougeTokensGolden) {
    for_each_case("rouge_tokens", [](const Json& test, const Golden&) {
        EXPECT_EQ(rouge_tokens(test.at("input").at("text").get<std::string>()), strings(test.at("expected")));
    });
}

TEST(Metrics, PorterStemGolden) {
    for_each_case("porter_stem", [](const Json& test, const Golden&) {
        const auto words = strings(test.at("input").at("words")), expected = strings(test.at("expected"));
        ASSERT_EQ(words.size(), expected.size());
        for (size_t i = 0; i < words.size(); ++i) EXPECT_EQ(porter_stem(words[i]), expected[i]) << words[i];
    });
}

TEST(Metrics, TextScoreGolden) {
    for_each_case("text_score", [](const Json& test, const Golden& file) {
        const Json& input = test.at("input");
        const auto run = [&] {
            return text_score(input.at("prediction").get<std::string>(), strings(input.at("references")));
        };
        if (test.contains("expected_error")) {
            EXPECT_EQ(refusal([&] { run(); }), test.at("expected_error"));
            return;
        }
        const TextScore score = run();
        expect_close(score.exact_match, test.at("expected").at("exact_match"), file);
        expect_close(score.rouge_l, test.at("expected").at("rouge_l"), file);
    });
}

TEST(Metrics, CorpusScoreGolden) {
    for_each_case("corpus_score", [](const Json& test, const Golden& file) {
        const Json& input = test.at("input");
        const auto run = [&] {
            return corpus_score(
                strings(input.at("predictions")),
                input.at("references").get<std::vector<std::vector<std::string>>>(),
                input.contains("groups") ? strings(input.at("groups")) : std::vector<std::string>{});
        };
        if (test.contains("expected_error")) {
            EXPECT_EQ(refusal([&] { run(); }), test.at("expected_error"));
            return;
        }
        const CorpusScore score = run();
        const Json& expected = test.at("expected");
        expect_close(score.overall.exact_match, expected.at("overall").at("exact_match"), file);
        expect_close(score.overall.rouge_l, expected.at("overall").at("rouge_l"), file);
        const Json groups = expected.value("groups", Json::object());
        ASSERT_EQ(score.groups.size(), groups.size());
        for (const auto& [name, group] : score.groups) {
            expect_close(group.exact_match, groups.at(name).at("exact_match"), file);
            expect_close(group.rouge_l, groups.at(name).at("rouge_l"), file);
        }
    });
}

TEST(Metrics, ArgGolden) {
    for_each_case("arg", [](const Json& test, const Golden& file) {
        const Json& input = test.at("input");
        const auto run = [&] {
            return average_relative_gain(input.at("base").get<std::map<std::string, double>>(),
                                         input.at("new").get<std::map<std::string, double>>(),
                                         input.value("skip_zero_base", false));
        };
        if (test.contains("expected_error"))
            EXPECT_EQ(refusal([&] { run(); }), test.at("expected_error"));
        else
            expect_close(run(), test.at("expected"), file);
    });
}

TEST(Metrics, LowercaseIsTheFullUnicodeMapping) {
    EXPECT_EQ(lowercase("ABC xyz 1"), "abc xyz 1");
    EXPECT_EQ(lowercase("\u0130"), "i\u0307");  // one character becomes two
    EXPECT_EQ(lowercase("\u039F\u0394\u039F\u03A3"), "\u03BF\u03B4\u03BF\u03C2");  // final sigma
    EXPECT_EQ(lowercase("\u03A3"), "\u03C3");                                      // not final when alone
    EXPECT_EQ(lowercase("\u03A3\u0391"), "\u03C3\u03B1");
    EXPECT_EQ(lowercase("\u212A"), "k");                   // shrinks
    EXPECT_EQ(lowercase("\u023A\u023A"), "\u2C65\u2C65");  // grows: 2 bytes to 3
    EXPECT_EQ(lowercase("a\xFF\u00C9"), "a\uFFFD\u00E9");
    EXPECT_EQ(lowercase(""), "");
}

TEST(Metrics, StemsFromThePublishedRules) {
    EXPECT_EQ(porter_stem("dies"), "die");
    EXPECT_EQ(porter_stem("hopping"), "hop");
    EXPECT_EQ(porter_stem("is"), "is");
    EXPECT_EQ(porter_stem("enjoy"), "enjoy");
    EXPECT_EQ(porter_stem("ies"), "i");
    EXPECT_EQ(porter_stem("ing"), "ing");
    EXPECT_EQ(porter_stem("4444ing"), "4444ing");
}

TEST(Metrics, RougeOfThePaperExample) {
    // prediction "the cat sat", reference "the cat" gives 80
    EXPECT_NEAR(100 * text_score("the cat sat", {"the cat"}).rouge_l, 80.0, 1e-9);
    EXPECT_EQ(text_score("Yes.", {"yes"}).exact_match, 1.0);
}

TEST(Metrics, PercentRoundsToFourDecimals) {
    ScoreSum sum;
    EXPECT_EQ(sum.percent().rouge_l, 0.0);
    for (int i = 0; i < 3; ++i) sum.add({i == 0 ? 1.0 : 0.0, i == 0 ? 0.0 : 1.0});
    EXPECT_EQ(sum.percent().exact_match, 33.3333);
    EXPECT_EQ(sum.percent().rouge_l, 66.6667);
    EXPECT_EQ(round4(0.00005), 0.0001);
}

}  // namespace
}  // namespace polyad
