// SPDX-License-Identifier: Apache-2.0
#include "data/dataset.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <set>

#include "base/error.h"

namespace polyad {
namespace {

namespace fs = std::filesystem;

const fs::path shared_dir = POLYAD_SHARED_DIR;

Dataset jsonl(std::string_view rows, const Json& options = Json::object()) {
    return Dataset::from_jsonl(Bytes::copy_of(rows, "rows.jsonl"), DatasetOptions::from_json(options));
}

/// Message of the error `run` ends with; "" when it ends well.
std::string refusal(const std::function<void()>& run, Code code) {
    try {
        run();
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), code) << e.what();
        return e.what();
    }
    return "";
}

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

/// A folder that is gone when the test ends.
class TemporaryFolder {
  public:
    TemporaryFolder() {
        path = fs::temp_directory_path() /
               fs::path("polyad_dataset_test_" + std::to_string(::getpid()) + "_" + std::to_string(serial++));
        fs::create_directories(path);
    }
    ~TemporaryFolder() {
        std::error_code ignored;
        fs::remove_all(path, ignored);
    }
    void write(const std::string& name, std::string_view content) const {
        std::ofstream(path / name, std::ios::binary) << content;
    }
    fs::path path;

  private:
    static inline int serial = 0;
};

std::string many_rows(int n, const std::string& task = "t") {
    std::string out;
    for (int i = 0; i < n; ++i)
        out += text(R"({"task": ")", task, R"(", "instruction": "Do", "input": "in )", i,
                    R"(", "output": "out )", i, "\"}\n");
    return out;
}

TEST(Dataset, ReadsThePack) {
    if (!fs::exists(shared_dir / "superni")) GTEST_SKIP() << "no task pack in " << shared_dir;
    const Dataset data = Dataset::open(shared_dir / "superni");
    ASSERT_EQ(data.tasks().size(), 32u);
    EXPECT_TRUE(data.bad_rows().empty());
    EXPECT_TRUE(std::is_sorted(data.tasks().begin(), data.tasks().end(),
                               [](const Task& a, const Task& b) { return a.name < b.name; }));
    for (const Task& task : data.tasks()) {
        EXPECT_FALSE(task.instruction.empty()) << task.name;
        EXPECT_FALSE(task.category.empty()) << task.name;
        EXPECT_EQ(task.examples(Split::test).size(), 50u) << task.name;
        std::set<std::string> inputs;
        size_t rows = 0;
        for (const auto& split : task.splits)
            for (const Example& example : split) {
                ++rows;
                inputs.insert(example.input);
            }
        EXPECT_EQ(inputs.size(), rows) << task.name;
    }
    const Task& tense = data.tasks()[static_cast<size_t>(data.find("task429_senteval_tense"))];
    EXPECT_EQ(tense.labels, (std::vector<std::string>{"Past", "Present"}));
    EXPECT_EQ(tense.examples(Split::train).size(), 200u);
    EXPECT_EQ(tense.examples(Split::validation).size(), 30u);
    EXPECT_EQ(tense.positive_examples.size(), 4u);
    EXPECT_EQ(data.tasks()[static_cast<size_t>(data.find("task875_emotion_classification"))].labels.size(),
              6u);
    EXPECT_TRUE(data.tasks()[static_cast<size_t>(data.find("task1481_gene_extraction_bc2gm_dataset"))]
                    .labels.empty());
    EXPECT_EQ(data.find("task429"), -1);
}

TEST(Dataset, ReadsOneTaskFileAndDerivesLabels) {
    const fs::path file = shared_dir / "superni-mini/task429_senteval_tense.json";
    if (!fs::exists(file)) GTEST_SKIP() << "no task pack in " << shared_dir;
    const Dataset data = Dataset::open(file);
    ASSERT_EQ(data.tasks().size(), 1u);
    EXPECT_EQ(data.tasks()[0].labels, (std::vector<std::string>{"Past", "Present"}));
    EXPECT_EQ(data.tasks()[0].examples(Split::train).size(), 40u);
}

TEST(Dataset, KeepsChosenTasksAndCapsTheirTrainSplit) {
    if (!fs::exists(shared_dir / "superni-mini")) GTEST_SKIP() << "no task pack in " << shared_dir;
    DatasetOptions options;
    options.tasks = {"task429_senteval_tense", "task1434_head_qa_classification"};
    options.max_examples_per_task = 7;
    const Dataset data = Dataset::open(shared_dir / "superni-mini", options);
    ASSERT_EQ(data.tasks().size(), 2u);
    EXPECT_EQ(data.tasks()[0].examples(Split::train).size(), 7u);
    EXPECT_EQ(data.tasks()[0].examples(Split::test).size(), 20u);
    options.tasks = {"task429"};
    EXPECT_TRUE(
        contains(refusal([&] { Dataset::open(shared_dir / "superni-mini", options); }, Code::unknown_task),
                 "task429_senteval_tense"));
}

TEST(Dataset, ReadsUpstreamsForm) {
    TemporaryFolder folder;
    folder.write("task001_x.json", R"({
        "Contributors": ["A"], "Categories": ["Question Answering", "More"], "Definition": ["Answer it."],
        "Positive Examples": [{"input": "1?", "output": "one", "explanation": "because"}], "Negative Examples": [],
        "Instances": [{"id": "a", "input": "2?", "output": ["two", "2"]}, {"id": "b", "input": "3?", "output": ["three"]}]})");
    const Dataset data = Dataset::open(folder.path);
    ASSERT_EQ(data.tasks().size(), 1u);
    const Task& task = data.tasks()[0];
    EXPECT_EQ(task.name, "task001_x");
    EXPECT_EQ(task.category, "Question Answering");
    EXPECT_EQ(task.instruction, "Answer it.");
    ASSERT_EQ(task.positive_examples.size(), 1u);
    EXPECT_EQ(task.positive_examples[0].outputs, std::vector<std::string>{"one"});
    ASSERT_EQ(task.examples(Split::train).size(), 2u);
    EXPECT_EQ(task.examples(Split::train)[0].outputs, (std::vector<std::string>{"two", "2"}));
    EXPECT_TRUE(task.labels.empty());
}

TEST(Dataset, ReadsJsonLines) {
    const Dataset data = jsonl(
        "\xEF\xBB\xBF"  // byte order mark, blank lines, CRLF
        R"({"task": "b", "instruction": "Say", "input": "x", "outputs": ["y", "z"], "split": "test", "id": "7"})"
        "\r\n\n"
        R"({"task": "b", "input": "w", "output": "v"})"
        "\n"
        R"({"task": "a", "instruction": "No input needed", "output": "v", "extra": 1})");
    ASSERT_EQ(data.tasks().size(), 2u);
    EXPECT_EQ(data.tasks()[0].name, "a");
    const Task& b = data.tasks()[1];
    EXPECT_EQ(b.instruction, "Say");
    ASSERT_EQ(b.examples(Split::test).size(), 1u);
    EXPECT_EQ(b.examples(Split::test)[0].id, "7");
    EXPECT_EQ(b.examples(Split::test)[0].outputs.size(), 2u);
    EXPECT_EQ(b.examples(Split::train).size(), 1u) << "a row without a split trains where others name theirs";
}

TEST(Dataset, FilesNamedLikeSplitsAreTheSplits) {
    TemporaryFolder folder;
    folder.write("train.jsonl", many_rows(5));
    folder.write("test.jsonl", R"({"task": "t", "input": "new", "output": "y"})");
    const Dataset data = Dataset::open(folder.path);
    ASSERT_EQ(data.tasks().size(), 1u);
    EXPECT_EQ(data.tasks()[0].examples(Split::train).size(), 5u);
    EXPECT_EQ(data.tasks()[0].examples(Split::test).size(), 1u);
}

TEST(Dataset, DealsSplitsByInputAndRepeatably) {
    std::string rows = many_rows(100);
    rows += R"({"task": "t", "input": "in 3", "output": "other"})";  // the same input twice
    const Dataset once = jsonl(rows), again = jsonl(rows), other = jsonl(rows, {{"seed", 1}});
    const Task& task = once.tasks()[0];
    std::set<std::string> seen;
    size_t in_two = 0;
    for (const auto& split : task.splits) {
        std::set<std::string> here;
        for (const Example& example : split) here.insert(example.input);
        for (const std::string& input : here) in_two += !seen.insert(input).second;
    }
    EXPECT_EQ(in_two, 0u);
    EXPECT_EQ(seen.size(), 100u);
    EXPECT_NEAR(static_cast<double>(task.examples(Split::test).size()), 10, 1);
    EXPECT_NEAR(static_cast<double>(task.examples(Split::validation).size()), 10, 1);
    const auto ids = [](const Dataset& data) {
        std::vector<std::string> out;
        for (const Example& example : data.tasks()[0].examples(Split::test)) out.push_back(example.id);
        return out;
    };
    EXPECT_EQ(ids(once), ids(again));
    EXPECT_NE(ids(once), ids(other));

    const Dataset all = jsonl(rows, {{"validation_fraction", 0}, {"test_fraction", 0}});
    EXPECT_EQ(all.tasks()[0].examples(Split::train).size(), 101u);
    EXPECT_EQ(jsonl(many_rows(1)).tasks()[0].examples(Split::train).size(), 1u) << "one row trains";
}

TEST(Dataset, DerivesLabelsOnlyFromAClosedSet) {
    const auto with_outputs = [](const std::vector<std::string>& outputs) {
        std::string rows;
        int i = 0;
        for (const std::string& output : outputs)
            rows += text(R"({"task": "t", "input": ")", i++, R"(", "output": ")", output, "\"}\n");
        return jsonl(rows).tasks()[0].labels;
    };
    EXPECT_EQ(with_outputs({"yes", "no", "no", "yes", "yes", "no"}), (std::vector<std::string>{"no", "yes"}));
    EXPECT_TRUE(with_outputs({"yes", "no", "no", "yes", "yes"}).empty()) << "'no' twice only";
    EXPECT_TRUE(with_outputs({"yes", "yes", "yes"}).empty()) << "one answer is no choice";
    std::vector<std::string> many;
    for (int repeat = 0; repeat < 3; ++repeat)
        for (int i = 0; i < 21; ++i) many.push_back("l" + std::to_string(i));
    EXPECT_TRUE(with_outputs(many).empty()) << "21 distinct answers";
    EXPECT_EQ(
        jsonl(R"({"task": "t", "input": "a", "output": "x", "labels": ["x", "y"]})").tasks()[0].labels.size(),
        2u);
}

struct BadRowCase {
    const char* row;
    const char* why;
};

class DatasetBadRow : public testing::TestWithParam<BadRowCase> {};

TEST_P(DatasetBadRow, IsNamedWithFileAndLineOrSkipped) {
    const std::string rows = many_rows(3) + "\n" + GetParam().row + "\n" + many_rows(1, "u");
    const std::string message = refusal([&] { jsonl(rows); }, Code::bad_data);
    EXPECT_TRUE(contains(message, "rows.jsonl:5: ")) << message;
    EXPECT_TRUE(contains(message, GetParam().why)) << message;

    const Dataset skipped = jsonl(rows, {{"on_bad_row", "skip"}});
    ASSERT_EQ(skipped.bad_rows().size(), 1u);
    EXPECT_EQ(skipped.bad_rows()[0].line, 5);
    EXPECT_EQ(skipped.bad_rows()[0].file, "rows.jsonl");
    ASSERT_EQ(skipped.tasks().size(), 2u);
    size_t count = 0;
    for (const auto& split : skipped.tasks()[0].splits) count += split.size();
    EXPECT_EQ(count, 3u) << "a refused row leaves nothing behind";
}

INSTANTIATE_TEST_SUITE_P(
    Reasons, DatasetBadRow,
    testing::Values(
        BadRowCase{R"({"task": "t", "input": "a"})", "\"output\""},
        BadRowCase{R"({"input": "a", "output": "b"})", "\"task\" is missing"},
        BadRowCase{R"({"task": "", "input": "a", "output": "b"})", "\"task\" is empty"},
        BadRowCase{R"({"task": "t", "input": 3, "output": "b"})", "\"input\" needs a string, got number"},
        BadRowCase{R"({"task": "t", "input": "a", "output": 3})", "needs a string"},
        BadRowCase{R"({"task": "t", "input": "a", "outputs": []})", "at least one reference"},
        BadRowCase{R"({"task": "t", "input": "a", "outputs": ["b", " "]})", "empty text"},
        BadRowCase{R"({"task": "t", "input": "a", "output": "b", "outputs": ["b"]})", "either"},
        BadRowCase{R"({"task": "t", "input": "a", "output": "b", "split": "tset"})",
                   "allowed: train, validation, test"},
        BadRowCase{R"({"task": "t", "input": "a", "output": "b", "instruction": "Another"})", "differs"},
        BadRowCase{R"({"task": "new", "input": " ", "output": "b"})", "no instruction"},
        BadRowCase{R"({"task": "t", "id": "t-1-1", "input": "a", "output": "b"})", "appears twice"},
        BadRowCase{R"({"task": "new", "input": "a", "output": "b", "labels": ["b", "b"]})", "repeated label"},
        BadRowCase{R"({"task": "t", "input": "a", "output": "b")", "not valid JSON"},
        BadRowCase{R"(["t"])", "JSON object, got array"},
        BadRowCase{R"({"task": "t", "input": "\ud800", "output": "b"})", "not valid JSON"},
        BadRowCase{"{\"task\": \"t\", \"input\": \"a\xC3(\", \"output\": \"b\"}",
                   "not UTF-8 at offset 25 of the line"}));

TEST(Dataset, RefusesTextOfAbsurdSize) {
    const std::string row =
        R"({"task": "t", "input": ")" + std::string((1 << 20) + 1, 'x') + R"(", "output": "b"})";
    EXPECT_TRUE(contains(refusal([&] { jsonl(row); }, Code::bad_data), "1048577 bytes, allowed: 1048576"));
    std::string deep = R"({"task": )" + std::string(100000, '[');
    EXPECT_TRUE(contains(refusal([&] { jsonl(deep); }, Code::bad_data), "rows.jsonl:1"));
}

TEST(Dataset, AnswersOutsideAGivenLabelSetAreBadRows) {
    const char* rows =
        "{\"task\": \"t\", \"input\": \"a\", \"output\": \"x\", \"labels\": [\"x\", \"y\"]}\n"
        "{\"task\": \"t\", \"input\": \"b\", \"output\": \"z\"}\n";
    EXPECT_TRUE(contains(refusal([&] { jsonl(rows); }, Code::bad_data),
                         "rows.jsonl:2: output 'z' is not one of the 2 labels"));
    EXPECT_EQ(jsonl(rows, {{"on_bad_row", "skip"}}).bad_rows().size(), 1u);
}

TEST(Dataset, AnIndexSettlesWhatTheLabelsAre) {
    TemporaryFolder folder;
    std::string rows;
    for (int i = 0; i < 6; ++i)
        rows += text(i ? "," : "", R"({"input": "q)", i, R"(", "outputs": [")", i % 2 ? "no" : "yes", "\"]}");
    for (const char* name : {"a", "b", "c"})
        folder.write(text(name, ".json"),
                     text(R"({"task": ")", name, R"(", "definition": "d", "train": [)", rows, "]}"));
    folder.write("tasks.json",
                 R"({"tasks": [{"task": "a", "type": "classification", "label_set": ["yes", "no", "maybe"]},
                                             {"task": "b", "type": "generation"}, {"task": "elsewhere", "label_set": ["x"]}]})");
    const Dataset data = Dataset::open(folder.path);
    EXPECT_EQ(data.tasks()[0].labels, (std::vector<std::string>{"yes", "no", "maybe"}));
    EXPECT_TRUE(data.tasks()[1].labels.empty());
    EXPECT_EQ(data.tasks()[2].labels, (std::vector<std::string>{"no", "yes"})) << "not in the index: derived";
    folder.write("tasks.json", "[]");
    EXPECT_TRUE(contains(refusal([&] { Dataset::open(folder.path); }, Code::bad_data), "tasks.json"));
}

TEST(Dataset, TaskFilesNameTheInstance) {
    TemporaryFolder folder;
    folder.write(
        "a.json",
        R"({"task": "a", "definition": "d", "train": [{"id": "1", "input": "x", "outputs": ["y"]}, {"id": "1", "input": "z", "outputs": ["y"]}]})");
    const std::string message = refusal([&] { Dataset::open(folder.path); }, Code::bad_data);
    EXPECT_TRUE(contains(message, "a.json:2: train[2]: id \"1\" appears twice")) << message;
}

TEST(Dataset, RefusesWhatIsNoDataset) {
    TemporaryFolder folder;
    EXPECT_TRUE(contains(refusal([&] { Dataset::open(folder.path); }, Code::bad_data), "holds no task file"));
    EXPECT_FALSE(refusal([&] { Dataset::open(folder.path / "missing.json"); }, Code::not_found).empty());
    EXPECT_FALSE(refusal([&] { jsonl(""); }, Code::bad_data).empty());
    folder.write("a.json", R"({"name": "not a task"})");
    EXPECT_TRUE(contains(refusal([&] { Dataset::open(folder.path); }, Code::bad_data), "not a task file"));
    folder.write("a.json", "{\"train\": [\n\xFF]}");
    EXPECT_TRUE(contains(refusal([&] { Dataset::open(folder.path); }, Code::bad_data),
                         "a.json:2: not UTF-8 at offset 12"));
    folder.write("a.json", R"({"task": "a", "definition": "d", "train": []})");
    EXPECT_TRUE(
        contains(refusal([&] { Dataset::open(folder.path); }, Code::bad_data), "task 'a' has no examples"));
    folder.write("a.json", R"({"task": "a", "definition": "d", "train": {}})");
    EXPECT_TRUE(contains(refusal([&] { Dataset::open(folder.path); }, Code::bad_data), "needs a list"));
    folder.write("a.json",
                 R"({"task": "a", "definition": "d", "train": [{"input": "x", "outputs": ["y"]}]})");
    folder.write("b.json",
                 R"({"task": "a", "definition": "d", "train": [{"input": "x", "outputs": ["y"]}]})");
    EXPECT_TRUE(contains(refusal([&] { Dataset::open(folder.path); }, Code::bad_data), "read before"));
}

TEST(Dataset, RefusesUnknownOptions) {
    EXPECT_TRUE(contains(refusal(
                             [] {
                                 DatasetOptions::from_json({{"on_bad_rows", "skip"}});
                             },
                             Code::invalid_config),
                         "on_bad_row"));
    EXPECT_FALSE(refusal(
                     [] {
                         DatasetOptions::from_json({{"validation_fraction", 0.6}, {"test_fraction", 0.6}});
                     },
                     Code::invalid_config)
                     .empty());
}

}  // namespace
}  // namespace polyad
