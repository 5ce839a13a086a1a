// SPDX-License-Identifier: Apache-2.0
#include "data/prompt.h"

#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "byte_tokenizer.h"

namespace polyad {
namespace {

Task example_task() {
    Task task;
    task.name = "t";
    task.instruction = "Do it.";
    task.positive_examples = {{"1", "one", {"ONE", "first"}}, {"2", "two", {"TWO"}}};
    return task;
}

PromptEncoder encoder(const Json& format, bool chat = false) {
    return PromptEncoder(std::make_shared<ByteTokenizer>(chat),
                         PromptFormat::from_json(format.is_null() ? Json::object() : format));
}

Code code_of(const std::function<void()>& run) {
    try {
        run();
    } catch (const Error& e) {
        return e.code();
    }
    return Code::ok;
}

std::string text_of(const std::vector<int32_t>& ids) {
    return ByteTokenizer().decode(ids, true);
}

TEST(Prompt, PlainStyle) {
    const Task task = example_task();
    EXPECT_EQ(encoder({{"style", "plain"}}).prompt_text(task, "x"), "Do it.\n\nInput: x\nOutput:\n");
    EXPECT_EQ(encoder({}).prompt_text(task, ""), "Do it.\n\nOutput:\n") << "auto without a template is plain";
    EXPECT_EQ(encoder({{"positive_examples", 1}}).prompt_text(task, "x"),
              "Do it.\n\nInput: one\nOutput:\nONE\n\nInput: x\nOutput:\n");
    EXPECT_EQ(encoder({{"positive_examples", 9}}).prompt_text(Task{}, "x"), "Input: x\nOutput:\n");
    EXPECT_EQ(encoder({}).prompt(task, "x").front(), 256) << "the tokenizer's own special tokens";
}

TEST(Prompt, ChatStyle) {
    const Task task = example_task();
    EXPECT_EQ(encoder({}, true).prompt_text(task, "x"), "[user]Do it.\n\nx[/][assistant]");
    EXPECT_EQ(encoder({}, true).prompt_text(task, ""), "[user]Do it.[/][assistant]");
    EXPECT_EQ(encoder({{"system", "Be."}}, true).prompt_text(Task{}, "x"),
              "[system]Be.[/][user]x[/][assistant]");
    EXPECT_EQ(encoder({{"positive_examples", 2}}, true).prompt_text(task, "x"),
              "[user]Do it.\n\nInput: one\nOutput:\nONE\n\nInput: two\nOutput:\nTWO\n\nInput: "
              "x\nOutput:[/][assistant]");
    EXPECT_NE(encoder({}, true).prompt(task, "x").front(), 256)
        << "the template writes its own special tokens";
    EXPECT_EQ(code_of([] { encoder({{"style", "chat"}}); }), Code::unsupported);
}

TEST(Prompt, CustomStyle) {
    const Task task = example_task();
    EXPECT_EQ(encoder({{"style", "{instruction}|{input} ="}}).prompt_text(task, "x"), "Do it.|x =");
    EXPECT_EQ(encoder({{"style", "{input}{input}"}}).prompt_text(task, "{instruction}"),
              "{instruction}{instruction}")
        << "marks in the data are data";
    EXPECT_EQ(encoder({{"style", "Q {input}"}, {"positive_examples", 1}}).prompt_text(task, "x"),
              "Q Input: one\nOutput:\nONE\n\nx");
}

TEST(Prompt, RefusesBadFormats) {
    const auto refused = [](const Json& format) {
        return code_of([&] { PromptFormat::from_json(format); }) == Code::invalid_config;
    };
    EXPECT_TRUE(refused({{"style", "chatt"}}));
    EXPECT_TRUE(refused({{"style", "only {instruction}"}}));
    EXPECT_TRUE(refused({{"max_tokens", 10}, {"max_answer_tokens", 10}}));
    EXPECT_TRUE(refused({{"positive_examples", -1}}));
    EXPECT_TRUE(refused({{"max_token", 10}}));
    EXPECT_FALSE(refused({{"max_tokens", 2}}));
    const PromptFormat format = PromptFormat::from_json(
        {{"style", "A {input}"}, {"system", "s"}, {"positive_examples", 2}, {"max_tokens", 64}});
    EXPECT_EQ(PromptFormat::from_json(format.to_json()).to_json(), format.to_json());
}

TEST(Prompt, AnswerEndsWithTheEndToken) {
    const auto rows = encoder({{"max_answer_tokens", 4}});
    EXPECT_EQ(rows.answer("abc"), (std::vector<int32_t>{'a', 'b', 'c', 257}));
    EXPECT_EQ(code_of([&] { rows.answer("abcd"); }), Code::context_overflow);
    EXPECT_EQ(code_of([&] { rows.answer("\xFF"); }), Code::bad_data);
    const EncodedExample row = rows.encode(example_task(), "x", "y");
    EXPECT_EQ(row.answer, (std::vector<int32_t>{'y', 257}));
    EXPECT_EQ(row.prompt, rows.prompt(example_task(), "x")) << "the prompt does not depend on the answer";
    EXPECT_EQ(row.truncated, 0);
}

TEST(Prompt, TruncatesInTheDocumentedOrder) {
    const Task task = example_task();
    // chat, 1 byte = 1 token: "[user]" 6 + "[/][assistant]" 14 = 20 of template
    const auto cut = [&](int budget, int demonstrations, std::string_view input, int* truncated) {
        const auto rows = encoder(
            {{"max_tokens", budget + 1}, {"max_answer_tokens", 1}, {"positive_examples", demonstrations}},
            true);
        const auto ids = rows.prompt(task, input, truncated);
        EXPECT_LE(ids.size(), static_cast<size_t>(budget));
        return text_of(ids);
    };
    int truncated = -1;
    EXPECT_EQ(cut(200, 2, "x", &truncated), encoder({{"positive_examples", 2}}, true).prompt_text(task, "x"));
    EXPECT_EQ(truncated, 0);
    // first the demonstrations, from the first on
    EXPECT_EQ(cut(80, 2, "x", &truncated),
              "[user]Do it.\n\nInput: two\nOutput:\nTWO\n\nInput: x\nOutput:[/][assistant]");
    EXPECT_EQ(truncated, 24);
    EXPECT_EQ(cut(40, 2, "x", &truncated), "[user]Do it.\n\nx[/][assistant]");
    // then the input from its left; the markers stay
    EXPECT_EQ(cut(32, 0, "0123456789", &truncated), "[user]Do it.\n\n6789[/][assistant]");
    EXPECT_EQ(truncated, 6);
    EXPECT_EQ(cut(28, 2, "0123456789", &truncated), "[user]Do it.[/][assistant]")
        << "no room for a single byte of input";
    // then the instruction
    EXPECT_EQ(cut(23, 2, "0123456789", &truncated), "[user]it.[/][assistant]");
    EXPECT_EQ(cut(20, 0, "0123456789", &truncated), "[user][/][assistant]");
    EXPECT_EQ(code_of([&] { cut(19, 0, "0123456789", nullptr); }), Code::context_overflow);
}

TEST(Prompt, TruncationKeepsCharactersWhole) {
    const std::string input = "\u4F60\u597D\u4F60\u597D";  // three bytes each
    for (int budget = 20; budget < 36; ++budget) {
        const auto rows = encoder({{"max_tokens", budget + 1}, {"max_answer_tokens", 1}}, true);
        int truncated = 0;
        const std::string got = text_of(rows.prompt(Task{}, input, &truncated));
        EXPECT_EQ(find_invalid_utf8(got), std::string_view::npos) << budget;
        EXPECT_EQ(got.size(), 20 + static_cast<size_t>(std::min(budget - 20, 12) / 3 * 3)) << budget;
        EXPECT_EQ(static_cast<size_t>(truncated), 32 - got.size());
    }
}

TEST(Prompt, CutsAHugeInput) {
    const std::string input(300000, 'x');
    const auto rows = encoder({{"max_tokens", 5000}, {"max_answer_tokens", 1}}, true);
    int truncated = 0;
    EXPECT_EQ(rows.prompt(Task{}, input, &truncated).size(), 4999u);
    EXPECT_EQ(truncated, 300020 - 4999);
}

TEST(Prompt, WithoutATokenizerOnlyIdsWork) {
    const PromptEncoder rows(nullptr, PromptFormat());
    EXPECT_EQ(rows.format().max_tokens, 1024);
    EXPECT_EQ(code_of([&] { rows.prompt(Task{}, "x"); }), Code::unsupported);
    EXPECT_EQ(code_of([&] { rows.answer("x"); }), Code::unsupported);
}

TEST(Prompt, PackShiftsTargetsOntoTheAnswer) {
    const EncodedExample a{{1, 2, 3}, {4, 5}, 0}, b{{6}, {7}, 0};
    const Batch batch = pack({&a, &b});
    EXPECT_EQ(batch.tokens, (std::vector<int32_t>{1, 2, 3, 4, 6}));
    EXPECT_EQ(batch.targets, (std::vector<int32_t>{-1, -1, 4, 5, 7}));
    EXPECT_EQ(batch.row_begin, (std::vector<int32_t>{0, 4, 5}));
    EXPECT_EQ(batch.prompt_length, (std::vector<int32_t>{3, 1}));
    EXPECT_EQ(pack({}).rows(), 0);
    const EncodedExample empty{{}, {1}, 0};
    EXPECT_THROW(pack({&empty}), Error);
}

}  // namespace
}  // namespace polyad
