// SPDX-License-Identifier: Apache-2.0
// Regular expressions out of files and configurations, matched against whole module paths. Patterns are a
// stranger's, so matching visits each pair of pattern place and text place once, without recursion, and gives
// up after a fixed number of steps: no pattern blows up in time or stack, as std::regex does.
//
// Python's syntax as far as it is used for module names: literals, `.`, [classes], \d \w \s \b and their
// opposites, ^ $, groups (plain, (?:...), (?P<name>...)), |, * + ? {n} {n,} {n,m} (lazy forms match the
// same),
// (?=...) and (?!...). Back references, look-behind and inline flags are refused by name.
#pragma once

#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace polyad {

class Pattern {
  public:
    /// Code::invalid_config for what is no regular expression or is too large, Code::unsupported for syntax
    /// that is not matched here; both name the place.
    explicit Pattern(std::string_view expression);
    /// True when the whole of `text` matches. Code::invalid_config when that takes too many steps.
    bool matches(std::string_view text) const;

  private:
    friend class PatternParser;
    enum class Op : uint8_t { set, split, jump, begin, end, boundary, no_boundary, ahead, not_ahead, accept };
    using Set = std::bitset<256>;
    struct Step {
        Op op;
        int32_t x = 0, y = 0;  ///< targets relative to this step; `set`: index of the set in x
    };
    class Run;

    std::string source_;
    std::vector<Step> program_;
    std::vector<Set> sets_;
};

}  // namespace polyad
