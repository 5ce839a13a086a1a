// SPDX-License-Identifier: Apache-2.0
#include "base/pattern.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"

namespace polyad {
namespace {

constexpr size_t longest_expression = 2000, longest_text = 4096, largest_program = 4000;
constexpr int deepest_group = 50, largest_count = 1000;
constexpr size_t step_budget = 20'000'000;

bool is_word(unsigned char c) {
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

}  // namespace

/// Recursive descent; every function returns the program of what it read.
class PatternParser {
  public:
    using Op = Pattern::Op;
    using Step = Pattern::Step;
    using Set = Pattern::Set;
    using Steps = std::vector<Step>;

    explicit PatternParser(Pattern& out, std::string_view source) : out_(out), source_(source) {}

    void parse() {
        if (source_.size() > longest_expression)
            fail(Code::invalid_config, "a pattern of ", source_.size(),
                 " characters, allowed: ", longest_expression);
        out_.program_ = alternatives(0);
        if (at_ < source_.size()) refuse("an unmatched ')'");
        out_.program_.push_back({Op::accept});
    }

  private:
    [[noreturn]] void refuse(const std::string& what, Code code = Code::invalid_config) const {
        throw Error(code, text("pattern '", std::string(source_.substr(0, 80)), "': ", what, " at character ",
                               at_, code == Code::unsupported ? " is not supported" : ""));
    }
    bool more() const { return at_ < source_.size(); }
    bool accept(std::string_view word) {
        if (!source_.substr(at_).starts_with(word)) return false;
        at_ += word.size();
        return true;
    }
    Steps checked(Steps code) const {
        if (code.size() > largest_program) refuse("too large a pattern");
        return code;
    }
    static void append(Steps& to, const Steps& from) { to.insert(to.end(), from.begin(), from.end()); }
    static int32_t size_of(const Steps& code) { return static_cast<int32_t>(code.size()); }

    Steps alternatives(int depth) {
        if (depth > deepest_group) refuse("too many nested groups");
        Steps left = sequence(depth);
        while (accept("|")) {
            const Steps right = sequence(depth);
            Steps both{{Op::split, 1, size_of(left) + 2}};
            append(both, left);
            both.push_back({Op::jump, size_of(right) + 1});
            append(both, right);
            left = checked(std::move(both));
        }
        return left;
    }

    Steps sequence(int depth) {
        Steps out;
        while (more() && source_[at_] != '|' && source_[at_] != ')') {
            append(out, repeated(depth));
            out = checked(std::move(out));
        }
        return out;
    }

    Steps repeated(int depth) {
        const size_t start = at_;
        const Steps one = atom(depth);
        int low = 1, high = 1;  // high -1 = no limit
        if (accept("*")) {
            low = 0, high = -1;
        } else if (accept("+")) {
            high = -1;
        } else if (accept("?")) {
            low = 0;
        } else if (!counts(low, high)) {
            return one;
        }
        if (!one.empty() && (one[0].op == Op::begin || one[0].op == Op::end) && at_ == start + 2)
            refuse("nothing to repeat");
        accept("?");  // lazy: the same set of texts
        if (more() && (source_[at_] == '*' || source_[at_] == '+' || source_[at_] == '?'))
            refuse("a repeated repetition");
        if (one.size() * static_cast<size_t>(std::max({low, high, 1})) > largest_program)
            refuse("too large a pattern");
        Steps out;
        for (int i = 0; i < low; ++i) append(out, one);
        if (high < 0) {
            out.push_back({Op::split, 1, size_of(one) + 2});
            append(out, one);
            out.push_back({Op::jump, -size_of(one) - 1});
        }
        for (int i = low; i < high; ++i) {
            out.push_back({Op::split, 1, size_of(one) + 1});
            append(out, one);
        }
        return checked(std::move(out));
    }

    /// {n}, {n,} or {n,m}; anything else in braces is literal, as in Python.
    bool counts(int& low, int& high) {
        if (!more() || source_[at_] != '{') return false;
        size_t at = at_ + 1;
        const auto number = [&](int& value) {
            const size_t begin = at;
            value = 0;
            while (at < source_.size() && source_[at] >= '0' && source_[at] <= '9' && value <= largest_count)
                value = 10 * value + (source_[at++] - '0');
            return at > begin;
        };
        if (!number(low)) return false;
        high = low;
        if (at < source_.size() && source_[at] == ',') {
            ++at;
            if (!number(high)) high = -1;
        }
        if (at >= source_.size() || source_[at] != '}') {
            if (low > largest_count || high > largest_count) refuse("too large a count");
            low = high = 1;
            return false;
        }
        if (low > largest_count || high > largest_count) refuse("too large a count");
        if (high >= 0 && high < low) refuse("a count whose end is below its start");
        at_ = at + 1;
        return true;
    }

    Steps atom(int depth) {
        const char c = source_[at_];
        switch (c) {
            case '(':
                return group(depth);
            case '[':
                return one_of(bracket());
            case '.':
                ++at_;
                return one_of(Set().set().reset('\n'));
            case '^':
                ++at_;
                return {{Op::begin}};
            case '$':
                ++at_;
                return {{Op::end}};
            case '*':
            case '+':
            case '?':
                refuse("nothing to repeat");
            case '\\':
                return escape();
            default:
                ++at_;
                return one_of(Set().set(static_cast<unsigned char>(c)));
        }
    }

    Steps group(int depth) {
        ++at_;
        Op look = Op::accept;
        if (accept("?")) {
            if (accept("=")) {
                look = Op::ahead;
            } else if (accept("!")) {
                look = Op::not_ahead;
            } else if (accept("P<")) {
                while (more() && source_[at_] != '>') ++at_;
                if (!accept(">")) refuse("a group name without '>'");
            } else if (!accept(":")) {
                refuse(source_.substr(at_).starts_with("<") ? "look-behind" : "this kind of group",
                       Code::unsupported);
            }
        }
        Steps inner = alternatives(depth + 1);
        if (!accept(")")) refuse("a group without ')'");
        if (look == Op::accept) return inner;
        Steps out{{look, 1, size_of(inner) + 2}};
        append(out, inner);
        out.push_back({Op::accept});
        return checked(std::move(out));
    }

    Steps one_of(const Set& set) {
        out_.sets_.push_back(set);
        return {{Op::set, static_cast<int32_t>(out_.sets_.size()) - 1}};
    }

    /// \d \w \s and their opposites; false when `c` is none of them.
    static bool class_of(char c, Set& set) {
        Set found;
        for (int i = 0; i < 128; ++i) {
            const auto u = static_cast<unsigned char>(i);
            const bool in = (c | 32) == 'd'   ? u >= '0' && u <= '9'
                            : (c | 32) == 'w' ? is_word(u)
                            : (c | 32) == 's' ? u == ' ' || (u >= '\t' && u <= '\r')
                                              : false;
            found[u] = in;
        }
        if ((c | 32) != 'd' && (c | 32) != 'w' && (c | 32) != 's') return false;
        set |= c & 32 ? found : ~found;
        return true;
    }

    unsigned char escaped_character() {
        const char c = source_[at_];
        if (c >= '0' && c <= '9') refuse("a back reference", Code::unsupported);
        ++at_;
        if (c == 'n') return '\n';
        if (c == 't') return '\t';
        if (c == 'r') return '\r';
        if (is_word(static_cast<unsigned char>(c)) && c != '_') {
            --at_;
            refuse("this escape", Code::unsupported);
        }
        return static_cast<unsigned char>(c);
    }

    Steps escape() {
        ++at_;
        if (!more()) refuse("a '\\' at the end");
        if (accept("b")) return {{Op::boundary}};
        if (accept("B")) return {{Op::no_boundary}};
        if (accept("A")) return {{Op::begin}};
        if (accept("Z") || accept("z")) return {{Op::end}};
        Set set;
        if (class_of(source_[at_], set)) {
            ++at_;
            return one_of(set);
        }
        return one_of(set.set(escaped_character()));
    }

    Set bracket() {
        ++at_;
        const bool negated = accept("^");
        Set set;
        for (bool first = true;; first = false) {
            if (!more()) refuse("a '[' without ']'");
            if (source_[at_] == ']' && !first) break;
            int low = bracket_character(set);
            if (low >= 0 && at_ + 1 < source_.size() && source_[at_] == '-' && source_[at_ + 1] != ']') {
                ++at_;
                const int high = bracket_character(set);
                if (high < low) refuse("a range that ends before it begins");
                while (low < high) set.set(static_cast<size_t>(low++));
            }
            if (low >= 0) set.set(static_cast<size_t>(low));
        }
        ++at_;
        return negated ? ~set : set;
    }

    /// One character, or -1 after adding a class such as \d to `set`.
    int bracket_character(Set& set) {
        if (!accept("\\")) return static_cast<unsigned char>(source_[at_++]);
        if (!more()) refuse("a '\\' at the end");
        if (class_of(source_[at_], set)) {
            ++at_;
            return -1;
        }
        return escaped_character();
    }

    Pattern& out_;
    std::string_view source_;
    size_t at_ = 0;
};

Pattern::Pattern(std::string_view expression) : source_(expression) {
    PatternParser(*this, source_).parse();
}

/// One match: which (program place, text place) were reached.
class Pattern::Run {
  public:
    Run(const Pattern& pattern, std::string_view text) : pattern_(pattern), text_(text) {}

    /// True when an accept can be reached from step `start` at `position`; with `whole` only at the text's
    /// end. Recursion is as deep as look-aheads are nested.
    bool reaches(size_t start, size_t position, bool whole) {
        const std::vector<Step>& program = pattern_.program_;
        const size_t places = text_.size() + 1;
        spend(program.size() * places / 64 + 1);
        std::vector<bool> seen(program.size() * places);
        std::vector<std::pair<size_t, size_t>> todo{{start, position}};
        while (!todo.empty()) {
            const auto [at, place] = todo.back();
            todo.pop_back();
            if (seen[at * places + place]) continue;
            seen[at * places + place] = true;
            spend(1);
            const Step& step = program[at];
            const auto go = [&, at = at](int32_t by, size_t to) {
                todo.emplace_back(static_cast<size_t>(static_cast<int64_t>(at) + by), to);
            };
            switch (step.op) {
                case Op::accept:
                    if (!whole || place == text_.size()) return true;
                    break;
                case Op::set:
                    if (place < text_.size() &&
                        pattern_.sets_[static_cast<size_t>(step.x)][static_cast<unsigned char>(text_[place])])
                        go(1, place + 1);
                    break;
                case Op::split:
                    go(step.y, place);
                    go(step.x, place);
                    break;
                case Op::jump:
                    go(step.x, place);
                    break;
                case Op::begin:
                    if (place == 0) go(1, place);
                    break;
                case Op::end:
                    if (place == text_.size()) go(1, place);
                    break;
                case Op::boundary:
                case Op::no_boundary:
                    if (at_boundary(place) == (step.op == Op::boundary)) go(1, place);
                    break;
                case Op::ahead:
                case Op::not_ahead:
                    if (look(at + 1, place) == (step.op == Op::ahead)) go(step.y, place);
                    break;
            }
        }
        return false;
    }

  private:
    bool at_boundary(size_t place) const {
        const bool before = place > 0 && is_word(static_cast<unsigned char>(text_[place - 1]));
        const bool after = place < text_.size() && is_word(static_cast<unsigned char>(text_[place]));
        return before != after;
    }
    bool look(size_t start, size_t place) {
        const auto known = looked_.find({start, place});
        if (known != looked_.end()) return known->second;
        const bool found = reaches(start, place, false);
        looked_[{start, place}] = found;
        return found;
    }
    void spend(size_t steps) {
        steps_ += steps;
        if (steps_ > step_budget)
            fail(Code::invalid_config, "pattern '", pattern_.source_.substr(0, 80),
                 "' takes too many steps to match");
    }

    const Pattern& pattern_;
    std::string_view text_;
    std::map<std::pair<size_t, size_t>, bool> looked_;
    size_t steps_ = 0;
};

bool Pattern::matches(std::string_view text) const {
    if (text.size() > longest_text)
        fail(Code::invalid_config, "a name of ", text.size(), " characters, allowed: ", longest_text);
    return Run(*this, text).reaches(0, 0, true);
}

}  // namespace polyad
