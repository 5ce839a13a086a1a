// SPDX-License-Identifier: Apache-2.0
// Collects examples, divides them into splits so that no word crosses from one to another, and writes JSON
// Lines.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

struct DemoExample {
    std::string input;
    std::vector<std::string> outputs;
};

struct DemoTask {
    std::string name, instruction;
    std::vector<DemoExample> examples;  ///< best first: the files take as many as the sizes below allow
};

struct SplitSizes {
    int train = 300, validation = 40, test = 50;
};

/// Words that must stay together (such as the two sides of an antonym pair) are joined; the split of a word
/// is a function of its group alone, so it is the same in every task.
class WordGroups {
  public:
    void join(const std::string& a, const std::string& b);
    /// "train", "validation" or "test", in proportion to `sizes`.
    const char* split_of(const std::string& word, const SplitSizes& sizes);

  private:
    std::string root(const std::string& word);
    std::map<std::string, std::string> parent_;
};

/// Writes FOLDER/NAME.jsonl and returns the examples written per split.
std::map<std::string, int> write_task(const std::filesystem::path& folder, const DemoTask& task,
                                      WordGroups& groups, const SplitSizes& sizes);
