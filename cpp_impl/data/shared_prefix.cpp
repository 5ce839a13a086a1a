// SPDX-License-Identifier: Apache-2.0
#include "data/shared_prefix.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace polyad {
namespace {

constexpr size_t shortest = 8;  ///< tokens; less in common is not worth a row of its own

class Tree {
  public:
    explicit Tree(const std::vector<const EncodedExample*>& examples) : examples_(examples) {
        out_.batch.row_begin.push_back(0);
    }

    /// Rows of one mixture that have their first `from` tokens in common and go on from row `parent`.
    void lay(const std::vector<int>& examples, int32_t parent, size_t from) {
        std::vector<std::pair<int32_t, std::vector<int>>> branches;  // by next token, in order of appearance
        for (const int e : examples) {
            if (from >= shareable(e)) {
                add_rest(e, parent, from);
                continue;
            }
            const int32_t next = prompt(e)[from];
            const auto found = std::find_if(branches.begin(), branches.end(),
                                            [next](const auto& branch) { return branch.first == next; });
            if (found != branches.end())
                found->second.push_back(e);
            else
                branches.push_back({next, {e}});
        }
        for (const auto& [token, members] : branches) {
            const size_t common = in_common(members);
            if (members.size() < 2 || common - from < shortest) {
                for (const int e : members) add_rest(e, parent, from);
                continue;
            }
            const auto node = static_cast<int32_t>(out_.batch.parent.size());
            const std::vector<int32_t>& tokens = prompt(members[0]);
            out_.batch.tokens.insert(out_.batch.tokens.end(), tokens.begin() + at(from),
                                     tokens.begin() + at(common));
            out_.batch.targets.insert(out_.batch.targets.end(), common - from, -1);
            finish_row(members[0], parent, common - from, members.size());
            out_.saved += static_cast<int64_t>((members.size() - 1) * (common - from));
            lay(members, node, common);
        }
    }

    SharedBatch take() { return std::move(out_); }

  private:
    static std::ptrdiff_t at(size_t i) { return static_cast<std::ptrdiff_t>(i); }
    const std::vector<int32_t>& prompt(int e) const { return examples_[static_cast<size_t>(e)]->prompt; }
    /// The prompt's last token predicts the answer's first: it stays the example's own.
    size_t shareable(int e) const { return prompt(e).size() - 1; }

    size_t in_common(const std::vector<int>& examples) const {
        size_t common = shareable(examples[0]);
        for (const int e : examples) {
            const auto end = std::min(common, shareable(e));
            const auto first = prompt(examples[0]).begin();
            common =
                static_cast<size_t>(std::mismatch(first, first + at(end), prompt(e).begin()).first - first);
        }
        return common;
    }

    void add_rest(int e, int32_t parent, size_t from) {
        const std::vector<int32_t>& tokens = prompt(e);
        const std::vector<int32_t>& answer = examples_[static_cast<size_t>(e)]->answer;
        Batch& batch = out_.batch;
        batch.tokens.insert(batch.tokens.end(), tokens.begin() + at(from), tokens.end());
        batch.tokens.insert(batch.tokens.end(), answer.begin(), answer.end() - 1);
        batch.targets.insert(batch.targets.end(), tokens.size() - from - 1, -1);
        batch.targets.insert(batch.targets.end(), answer.begin(), answer.end());
        finish_row(e, parent, tokens.size() - from, 1);
    }

    void finish_row(int e, int32_t parent, size_t prompt_tokens, size_t examples) {
        out_.batch.row_begin.push_back(static_cast<int32_t>(out_.batch.tokens.size()));
        out_.batch.prompt_length.push_back(static_cast<int32_t>(prompt_tokens));
        out_.batch.parent.push_back(parent);
        out_.example.push_back(e);
        out_.stands_for.push_back(static_cast<int32_t>(examples));
    }

    const std::vector<const EncodedExample*>& examples_;
    SharedBatch out_;
};

}  // namespace

SharedBatch pack_shared(const std::vector<const EncodedExample*>& examples, const std::vector<int>& mixture) {
    POLYAD_CHECK(examples.size() == mixture.size());
    for (const EncodedExample* e : examples) POLYAD_CHECK(e && !e->prompt.empty() && !e->answer.empty());
    Tree tree(examples);
    std::vector<char> laid(examples.size(), 0);
    for (size_t first = 0; first < examples.size(); ++first) {
        if (laid[first]) continue;
        std::vector<int> members;
        for (size_t e = first; e < examples.size(); ++e)
            if (mixture[e] == mixture[first]) {
                members.push_back(static_cast<int>(e));
                laid[e] = 1;
            }
        tree.lay(members, -1, 0);
    }
    SharedBatch out = tree.take();
    if (out.saved == 0) out.batch.parent.clear();  // nothing shared: an ordinary batch
    return out;
}

}  // namespace polyad
