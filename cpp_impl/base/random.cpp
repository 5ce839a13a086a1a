// SPDX-License-Identifier: Apache-2.0
#include "base/random.h"

#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

namespace polyad {
namespace {

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> c, std::array<uint32_t, 2> k) {
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = uint64_t{0xD2511F53} * c[0], p1 = uint64_t{0xCD9E8D57} * c[2];
        c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(p1),
             static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(p0)};
        k[0] += 0x9E3779B9;
        k[1] += 0xBB67AE85;
    }
    return c;
}

}  // namespace

uint32_t Generator::next_u32() {
    const uint64_t block = state_.counter >> 2;
    const auto out =
        philox({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                static_cast<uint32_t>(state_.stream), static_cast<uint32_t>(state_.stream >> 32)},
               {static_cast<uint32_t>(state_.seed), static_cast<uint32_t>(state_.seed >> 32)});
    return out[state_.counter++ & 3];
}

float Generator::uniform() {
    return (static_cast<float>(next_u32() >> 9) + 0.5f) * 0x1p-23f;
}

double Generator::uniform(double low, double high) {
    return low + (high - low) * uniform();
}

double Generator::normal() {  // Box-Muller; the second value is dropped so that one draw is always two words
    const double u = (static_cast<double>(next_u32()) + 0.5) * 0x1p-32;
    const double v = static_cast<double>(next_u32()) * 0x1p-32;
    return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

uint64_t Generator::below(uint64_t n) {
    const uint64_t limit = UINT64_MAX - UINT64_MAX % n;
    for (;;) {
        const uint64_t high = next_u32();
        const uint64_t draw = high << 32 | next_u32();
        if (draw < limit) return draw % n;
    }
}

void Generator::fill_uniform(float* out, size_t n) {
    for (size_t i = 0; i < n; ++i) out[i] = uniform();
}

void Generator::fill_uniform(float* out, size_t n, double low, double high) {
    for (size_t i = 0; i < n; ++i) out[i] = static_cast<float>(uniform(low, high));
}

void Generator::fill_normal(float* out, size_t n, double mean, double std) {
    for (size_t i = 0; i < n; ++i) out[i] = static_cast<float>(mean + std * normal());
}

std::vector<uint32_t> Generator::permutation(uint32_t n) {
    std::vector<uint32_t> order(n);
    std::iota(order.begin(), order.end(), 0u);
    for (uint32_t i = n; i > 1; --i) std::swap(order[i - 1], order[below(i)]);
    return order;
}

}  // namespace polyad
