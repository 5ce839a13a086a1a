// SPDX-License-Identifier: Apache-2.0
#include "serving/prefix_cache.h"

namespace polyad {
namespace {

constexpr size_t page_tokens = DecoderCache::page_tokens;

std::vector<int32_t> page_of(std::span<const int32_t> tokens, size_t index) {
    const auto part = tokens.subspan(index * page_tokens, page_tokens);
    return {part.begin(), part.end()};
}

}  // namespace

void PrefixCache::touch(Node& node) {
    if (node.next.empty()) leaves_.erase({node.used, &node});
    node.used = ++clock_;
    if (node.next.empty()) leaves_.insert({node.used, &node});
}

std::vector<PrefixCache::PageRef> PrefixCache::find(const PrefixRoute& route, std::span<const int32_t> tokens,
                                                    size_t most) {
    std::vector<PageRef> out;
    const auto root = roots_.find(route);
    if (root == roots_.end()) return out;
    Node* node = &root->second;
    while (out.size() < most && (out.size() + 1) * page_tokens <= tokens.size()) {
        const auto next = node->next.find(page_of(tokens, out.size()));
        if (next == node->next.end()) break;
        node = next->second.get();
        touch(*node);
        out.push_back(node->page);
    }
    return out;
}

void PrefixCache::insert(const PrefixRoute& route, std::span<const int32_t> tokens,
                         std::span<const PageRef> pages) {
    if (pages.empty()) return;
    Node* node = &roots_[route];
    for (size_t i = 0; i < pages.size(); ++i) {
        const bool leaf = node->next.empty() && node->parent;
        const uint64_t used = node->used;
        const auto [at, added] = node->next.try_emplace(page_of(tokens, i));
        if (added) {
            at->second = std::make_unique<Node>();
            at->second->page = pages[i];
            at->second->parent = node;
            at->second->key = &at->first;
            if (leaf) leaves_.erase({used, node});
            ++count_;
        }
        node = at->second.get();
        touch(*node);
    }
}

void PrefixCache::forget(Node& node) {
    Node* parent = node.parent;
    leaves_.erase({node.used, &node});
    --count_;
    parent->next.erase(*node.key);
    if (!parent->next.empty()) return;
    if (parent->parent) {
        leaves_.insert({parent->used, parent});
        return;
    }
    for (auto root = roots_.begin(); root != roots_.end(); ++root)
        if (&root->second == parent) {
            roots_.erase(root);
            return;
        }
}

bool PrefixCache::evict() {
    for (const auto& [used, node] : leaves_)
        if (node->page.use_count() == 1) {
            forget(*node);
            return true;
        }
    return false;
}

size_t PrefixCache::idle_pages() const {
    size_t idle = 0;
    std::vector<const Node*> nodes;
    for (const auto& [route, root] : roots_) nodes.push_back(&root);
    while (!nodes.empty()) {
        const Node* node = nodes.back();
        nodes.pop_back();
        idle += node->page && node->page.use_count() == 1;
        for (const auto& [tokens, next] : node->next) nodes.push_back(next.get());
    }
    return idle;
}

void PrefixCache::drop(int64_t version) {
    for (auto root = roots_.lower_bound({version, INT32_MIN, {}});
         root != roots_.end() && root->first.version == version;) {
        std::vector<Node*> nodes{&root->second};
        for (size_t i = 0; i < nodes.size(); ++i) {
            if (i > 0 && nodes[i]->next.empty()) leaves_.erase({nodes[i]->used, nodes[i]});
            for (auto& [tokens, next] : nodes[i]->next) nodes.push_back(next.get());
        }
        count_ -= nodes.size() - 1;
        root = roots_.erase(root);
    }
}

}  // namespace polyad
