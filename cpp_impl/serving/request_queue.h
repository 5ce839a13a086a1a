// SPDX-License-Identifier: Apache-2.0
// Which waiting request comes next. Higher priorities first; within one, the tasks take turns by deficit
// round robin: on its turn a task's credit grows by a quantum of tokens and pays for its oldest requests
// (prompt plus the longest answer). A task that sends much, or long requests, thus delays itself and not the
// others.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>

namespace polyad {

template <class Item>
class RequestQueue {
  public:
    static constexpr int64_t quantum = 512;  ///< tokens

    /// `flow`: what takes turns (skillset and task). `cost` in tokens, at least 1.
    void push(Item item, int priority, std::string flow, int64_t cost) {
        Level& level = levels_[priority];
        const auto [at, added] = level.flow_of.try_emplace(std::move(flow));
        if (added) at->second = level.turns.insert(level.turns.end(), {&at->first, {}, 0, false});
        at->second->waiting.push_back({std::move(item), cost > 0 ? cost : 1});
        ++size_;
    }
    /// Back to the head of its priority: what had begun and had to give way.
    void push_front(Item item, int priority) {
        levels_[priority].resumed.push_front(std::move(item));
        ++size_;
    }

    bool empty() const { return size_ == 0; }
    size_t size() const { return size_; }

    /// The next one; the same until pop() unless something is pushed before it. Not when empty.
    Item& front() {
        Level& level = levels_.begin()->second;
        return level.resumed.empty() ? turn(level).waiting.front().first : level.resumed.front();
    }
    Item pop() {
        Level& level = levels_.begin()->second;
        Item out;
        if (!level.resumed.empty()) {
            out = std::move(level.resumed.front());
            level.resumed.pop_front();
        } else {
            Flow& flow = turn(level);
            out = std::move(flow.waiting.front().first);
            flow.credit -= flow.waiting.front().second;
            flow.waiting.pop_front();
            if (flow.waiting.empty()) remove(level, level.turns.begin());
        }
        --size_;
        drop_empty();
        return out;
    }
    /// Takes out every item for which `gone` is true.
    void erase_if(const std::function<bool(const Item&)>& gone) {
        for (auto& [priority, level] : levels_) {
            size_ -= std::erase_if(level.resumed, gone);
            for (auto flow = level.turns.begin(); flow != level.turns.end();) {
                size_ -= std::erase_if(flow->waiting, [&](const auto& entry) { return gone(entry.first); });
                flow = flow->waiting.empty() ? remove(level, flow) : std::next(flow);
            }
        }
        drop_empty();
    }
    void for_each(const std::function<void(const Item&)>& visit) const {
        for (const auto& [priority, level] : levels_) {
            for (const Item& item : level.resumed) visit(item);
            for (const Flow& flow : level.turns)
                for (const auto& [item, cost] : flow.waiting) visit(item);
        }
    }

  private:
    struct Flow {
        const std::string* name;
        std::deque<std::pair<Item, int64_t>> waiting;
        int64_t credit;
        bool paid;  ///< has had this turn's quantum
    };
    struct Level {
        std::deque<Item> resumed;
        std::list<Flow> turns;  ///< the first one's turn it is
        std::map<std::string, typename std::list<Flow>::iterator> flow_of;
    };

    /// Hands the turn on until it is a flow's that can pay for its oldest request.
    Flow& turn(Level& level) {
        for (;;) {
            Flow& flow = level.turns.front();
            if (!flow.paid) {
                flow.credit += quantum;
                flow.paid = true;
            }
            if (flow.credit >= flow.waiting.front().second) return flow;
            flow.paid = false;
            level.turns.splice(level.turns.end(), level.turns, level.turns.begin());
        }
    }
    /// A flow that has nothing left loses its credit.
    typename std::list<Flow>::iterator remove(Level& level, typename std::list<Flow>::iterator flow) {
        level.flow_of.erase(*flow->name);
        return level.turns.erase(flow);
    }
    void drop_empty() {
        std::erase_if(levels_, [](const auto& entry) {
            return entry.second.resumed.empty() && entry.second.turns.empty();
        });
    }

    std::map<int, Level, std::greater<>> levels_;
    size_t size_ = 0;
};

}  // namespace polyad
