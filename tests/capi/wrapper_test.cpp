// SPDX-License-Identifier: Apache-2.0
// polyad.hpp given what a C++ host can pass in by mistake: each is a polyad::Error, nothing crashes.
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <new>
#include <polyad/polyad.hpp>

namespace {

const char* const rows =
    "{\"task\": \"up\", \"instruction\": \"Say up.\", \"input\": \"a\", \"output\": \"up\", \"split\": "
    "\"train\"}\n";

/// The code of the Error that `call` throws, or -1.
template <class Call>
int32_t refused(Call call) {
    try {
        call();
    } catch (const polyad::Error& e) {
        EXPECT_STRNE(e.what(), "");
        return e.code();
    }
    return -1;
}

using namespace std::string_literals;

class Wrapper : public testing::Test {
  protected:
    void SetUp() override {
        const std::string file = POLYAD_SHARED_DIR "/fixtures/gguf/tiny_llama.gguf";
        if (!std::filesystem::exists(file)) GTEST_SKIP() << file << " is not here";
        model = std::make_unique<polyad::Backbone>(context, file, R"({"precision": "fp32"})");
    }
    polyad::Skillset skills() const {
        return {*model, polyad::Dataset::from_jsonl(context, rows),
                R"({"method": "lora", "rank": 2, "prompt": {"style": "word {input}"}})"};
    }

    polyad::Context context{1};
    std::unique_ptr<polyad::Backbone> model;
};

TEST_F(Wrapper, StringsWithNulEmptyAndHuge) {
    const auto set = skills();
    polyad::Engine engine(*model);
    engine.publish("words", set);
    // As C sees them these would be other, valid names.
    EXPECT_EQ(refused([&] { engine.retire("words\0x"s); }), POLYAD_INVALID_ARGUMENT);
    EXPECT_EQ(refused([&] { set.task_weights("up\0x"s); }), POLYAD_INVALID_ARGUMENT);
    EXPECT_EQ(refused([&] { engine.submit("words"s, "up\0x"s, "a"); }), POLYAD_INVALID_ARGUMENT);
    EXPECT_EQ(refused([&] { set.save("x\0.polyad"s); }), POLYAD_INVALID_ARGUMENT);
    EXPECT_EQ(refused([&] { polyad::Backbone(context, "x\0"s); }), POLYAD_INVALID_ARGUMENT);
    EXPECT_EQ(refused([&] {
                  polyad::Skillset::import_peft_set(*model, {"a"s, "b\0"s});
              }),
              POLYAD_INVALID_ARGUMENT);
    EXPECT_EQ(model->detokenize(model->tokenize("a\0b"s)), "a\0b"s) << "a text has a length";

    EXPECT_EQ(refused([&] { engine.retire(""); }), POLYAD_NOT_FOUND);
    EXPECT_TRUE(model->tokenize("").empty());
    EXPECT_EQ(model->detokenize({}), "");
    const std::string huge(1 << 24, 'x');
    EXPECT_EQ(refused([&] { engine.retire(huge); }), POLYAD_NOT_FOUND);
    EXPECT_EQ(refused([&] { set.task_weights(huge); }), POLYAD_UNKNOWN_TASK);
    EXPECT_NE(refused([&] { polyad::Backbone(context, huge); }), -1);
}

TEST_F(Wrapper, AnEmptyPromptIsEmpty) {
    polyad::Engine engine(*model);
    engine.publish("words", skills());
    const auto result = [&](std::string_view prompt) {
        polyad::Request request = engine.submit("words", "up", prompt);
        while (engine.step()) {
        }
        return request.result();
    };
    const auto tokens = [](const std::string& json) {
        const size_t at = json.find("\"prompt_tokens\":");
        return std::stoi(json.substr(at + 16));
    };
    const std::string_view word = "abcdefgh";
    EXPECT_EQ(tokens(result(word.substr(0, 0))), tokens(result("")))
        << "a view of length 0 is not the text behind it";
    EXPECT_LT(tokens(result(word.substr(0, 0))), tokens(result(word)));
    EXPECT_EQ(tokens(result(std::string_view())), tokens(result("")));
}

TEST_F(Wrapper, HandlesThatHoldNothing) {
    polyad::Backbone moved = *model;
    polyad::Backbone taken = std::move(moved);
    EXPECT_TRUE(taken);
    EXPECT_FALSE(moved);
    EXPECT_EQ(refused([&] { moved.info(); }), POLYAD_INVALID_ARGUMENT);
    EXPECT_EQ(refused([&] { moved.tokenize("x"); }), POLYAD_INVALID_ARGUMENT);
    EXPECT_EQ(refused([&] { polyad::Engine engine(moved); }), POLYAD_INVALID_ARGUMENT);
    polyad::Request none(nullptr);
    EXPECT_EQ(refused([&] { none.poll(); }), POLYAD_INVALID_ARGUMENT);
    none.cancel();
    EXPECT_EQ(refused([&] { taken.detokenize({1, 1 << 30}); }), POLYAD_INVALID_ARGUMENT);
    EXPECT_EQ(refused([&] { taken.detokenize({-1}); }), POLYAD_INVALID_ARGUMENT);
}

int messages = 0;

extern "C" void throwing_sink(int32_t, const char*, void*) {
    ++messages;
    throw std::bad_alloc();
}

TEST(Log, ASinkThatThrowsHarmsNobody) {
    polyad_log_set_sink(throwing_sink, nullptr);
    polyad::Context context(1);
    const polyad::Dataset tasks =
        polyad::Dataset::from_jsonl(context, std::string(rows) + "{\"x\": 1}\n", R"({"on_bad_row": "skip"})");
    polyad_log_set_sink(nullptr, nullptr);
    EXPECT_EQ(messages, 1);
    EXPECT_NE(tasks.info().find("bad_rows"), std::string::npos) << "the call that logged went on";
}

}  // namespace
