// SPDX-License-Identifier: Apache-2.0
#include "base/pattern.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace polyad {
namespace {

bool matches(const char* pattern, const char* text) {
    return Pattern(pattern).matches(text);
}

TEST(Pattern, MatchesWholeTexts) {
    // Each against what Python's re.fullmatch says.
    const struct {
        const char *pattern, *text;
        bool match;
    } cases[] = {
        {"abc", "abc", true},
        {"abc", "abcd", false},
        {"", "", true},
        {"a*b", "aaab", true},
        {"a+b", "b", false},
        {"a?b", "b", true},
        {"a.c", "a\nc", false},
        {"(a|bc)*d", "abcad", true},
        {"(a|bc)*d", "abad", false},
        {"a{2}", "aa", true},
        {"a{2,}", "a", false},
        {"a{0,2}b", "aab", true},
        {"a{1,2}b", "aaab", false},
        {"a{x}", "a{x}", true},
        {"[a-c_]+", "cab_", true},
        {"[^a-c]+", "xyz", true},
        {"[^a-c]+", "xaz", false},
        {"[]a]+", "]a", true},
        {"[a-]+", "a-", true},
        {"[\\d.]+", "1.5", true},
        {"\\d\\D\\w\\W\\s\\S", "1a_- x", true},
        {"\\bq\\b.*", "q.k", true},
        {".*\\Bq", "xq", true},
        {"^a$", "a", true},
        {"a^b", "ab", false},
        {"(?:ab)+?", "abab", true},
        {"(?P<n>ab)", "ab", true},
        {"(?!.*vision).*q_proj", "model.layers.0.q_proj", true},
        {"(?!.*vision).*q_proj", "vision.layers.0.q_proj", false},
        {"(?=.*[02]).*\\.(q|v)", "l.2.q", true},
        {"(?=.*[02]).*\\.(q|v)", "l.1.q", false},
        {"(?!(?=a)b)a", "a", true},
        {".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$", "decoder.block.1.layer.0.SelfAttention.q",
         true},
        {".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$", "encoder.block.1.layer.0.SelfAttention.q",
         false},
        {"model\\.layers\\.(0|1[0-9])\\.self_attn\\.[qv]_proj", "model.layers.12.self_attn.v_proj", true},
        {"model\\.layers\\.(0|1[0-9])\\.self_attn\\.[qv]_proj", "model.layers.2.self_attn.v_proj", false},
        {"((a*)*)*b", "aaab", true},
    };
    for (const auto& c : cases)
        EXPECT_EQ(matches(c.pattern, c.text), c.match) << c.pattern << " on " << c.text;
}

TEST(Pattern, RefusesByName) {
    const struct {
        const char *pattern, *word;
        Code code;
    } cases[] = {
        {"(a", "without ')'", Code::invalid_config},
        {"a)", "unmatched ')'", Code::invalid_config},
        {"[a", "without ']'", Code::invalid_config},
        {"*a", "nothing to repeat", Code::invalid_config},
        {"a**", "repeated repetition", Code::invalid_config},
        {"a\\", "at the end", Code::invalid_config},
        {"[b-a]", "ends before", Code::invalid_config},
        {"a{3,2}", "below its start", Code::invalid_config},
        {"a{1001}", "too large", Code::invalid_config},
        {"((((a{50}){50}){50}){50})", "too large", Code::invalid_config},
        {"(?<=a)b", "look-behind", Code::unsupported},
        {"(?i)a", "kind of group", Code::unsupported},
        {"(a)\\1", "back reference", Code::unsupported},
    };
    for (const auto& c : cases) {
        try {
            Pattern pattern(c.pattern);
            ADD_FAILURE() << c.pattern << " was taken";
        } catch (const Error& e) {
            EXPECT_EQ(e.code(), c.code) << c.pattern;
            EXPECT_NE(std::string(e.what()).find(c.word), std::string::npos) << c.pattern << ": " << e.what();
        }
    }
    EXPECT_THROW(Pattern(std::string(3000, 'a')), Error);
    EXPECT_THROW(Pattern(std::string(200, '(') + std::string(200, ')')), Error);
}

TEST(Pattern, HostileOnesEnd) {
    // Each of these takes a backtracking engine exponential time or a deep stack.
    const std::string many(3000, 'a');
    EXPECT_FALSE(Pattern("(a+)+b").matches(many));
    EXPECT_FALSE(Pattern("(a|a)*b").matches(many));
    EXPECT_FALSE(Pattern("(a|aa)+$b").matches(many));
    EXPECT_TRUE(Pattern("(.*)*").matches(many));
    EXPECT_TRUE(Pattern("(a?){40}(a){40}").matches(std::string(40, 'a')));
    try {  // a look-ahead at every place costs a search each: the budget ends it
        Pattern("((?=.*.*.*.*b)a|(?!.*.*.*.*c)a)*").matches(many);
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), Code::invalid_config);
        EXPECT_NE(std::string(e.what()).find("too many steps"), std::string::npos);
    }
}

}  // namespace
}  // namespace polyad
