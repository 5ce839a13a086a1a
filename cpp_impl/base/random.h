// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10 (Salmon et al. 2011): a counter-based generator. Its whole state is (seed, stream, counter),
// so a resumed run draws exactly what the uninterrupted one would have drawn, on any machine.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace polyad {

class Generator {
  public:
    struct State {
        uint64_t seed = 0, stream = 0, counter = 0;
        bool operator==(const State&) const = default;
    };

    explicit Generator(uint64_t seed, uint64_t stream = 0) : state_{seed, stream, 0} {}
    explicit Generator(State state) : state_(state) {}

    /// Position in the sequence; a Generator made from it continues bit for bit.
    State state() const { return state_; }

    uint32_t next_u32();
    /// Uniform on the open interval (0, 1): never 0 and never 1, as relaxed-Bernoulli noise needs.
    float uniform();
    double uniform(double low, double high);
    double normal();
    /// Uniform on [0, n), n >= 1, without modulo bias.
    uint64_t below(uint64_t n);
    void fill_uniform(float* out, size_t n);
    void fill_uniform(float* out, size_t n, double low, double high);
    void fill_normal(float* out, size_t n, double mean, double std);
    /// A permutation of 0..n-1 (Fisher-Yates).
    std::vector<uint32_t> permutation(uint32_t n);

  private:
    State state_;
};

}  // namespace polyad
