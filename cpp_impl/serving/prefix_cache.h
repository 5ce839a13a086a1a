// SPDX-License-Identifier: Apache-2.0
// Beginnings of prompts whose keys and values are computed already. What is found is found by the tokens
// themselves, never by a hash of them, and only under the same route: the version of the skillset, the task
// and every bit of explicit weights.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "backbone/kv_cache.h"

namespace polyad {

/// What besides the tokens decides a prompt's keys and values, in one engine.
struct PrefixRoute {
    int64_t version = 0;  ///< ServedSkillset::id; 0 = the backbone alone
    int task = -1;
    std::vector<uint32_t> weights;  ///< bits of explicit weights: -0 and 0 are not the same
    auto operator<=>(const PrefixRoute&) const = default;
};

/// One caller at a time.
class PrefixCache {
  public:
    using PageRef = DecoderCache::PageRef;

    /// Pages for the longest known beginning of `tokens`, at most `most` of them.
    std::vector<PageRef> find(const PrefixRoute& route, std::span<const int32_t> tokens, size_t most);
    /// `pages` hold the first pages of `tokens`; those of known beginnings are not kept twice.
    void insert(const PrefixRoute& route, std::span<const int32_t> tokens, std::span<const PageRef> pages);
    /// Gives up the page that was found longest ago, of those no row holds; false when there is none.
    bool evict();
    /// Gives up everything of a version.
    void drop(int64_t version);
    size_t pages() const { return count_; }
    /// Pages no row holds: what evict() could give up one after the other.
    size_t idle_pages() const;

  private:
    struct Node {
        std::map<std::vector<int32_t>, std::unique_ptr<Node>> next;  ///< by the tokens of the next page
        PageRef page;
        Node* parent = nullptr;
        const std::vector<int32_t>* key = nullptr;  ///< in parent->next
        uint64_t used = 0;
    };
    void touch(Node& node);
    void forget(Node& node);

    std::map<PrefixRoute, Node> roots_;
    std::set<std::pair<uint64_t, Node*>> leaves_;  ///< by when they were used last
    uint64_t clock_ = 0;
    size_t count_ = 0;
};

}  // namespace polyad
