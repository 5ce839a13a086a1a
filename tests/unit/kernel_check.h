// SPDX-License-Identifier: Apache-2.0
// Buffers for kernel tests: any element type, deliberately misaligned, with guards that show writes outside.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/random.h"
#include "kernels/op_table.h"

namespace polyad::kernels {

inline std::vector<const OpTable*> available_sets() {
    std::vector<const OpTable*> sets;
    for (const char* isa : {"portable", "avx2", "avx512", "amx"})
        if (const OpTable* table = ops_for(isa)) sets.push_back(table);
    return sets;
}

inline float from_bits(uint32_t bits) {
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
inline uint32_t to_bits(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    return bits;
}
/// Round to nearest even on the bits, NaN made quiet.
inline uint16_t reference_bf16(float f) {
    const uint32_t bits = to_bits(f);
    if (std::isnan(f)) return static_cast<uint16_t>(bits >> 16 | 0x40);
    const uint32_t rest = bits & 0xffff;
    uint32_t upper = bits >> 16;
    if (rest > 0x8000 || (rest == 0x8000 && (upper & 1))) ++upper;
    return static_cast<uint16_t>(upper);
}

/// n elements of `type` starting one element past any alignment, guards of a known pattern on both sides.
class Buffer {
  public:
    Buffer(Float type, int64_t n)
        : type_(type), n_(n), bytes_((static_cast<size_t>(n) + 1 + 2 * guard) * size(), pattern) {
        for (int64_t i = 0; i < n; ++i) set(i, 0);
    }
    Buffer(Float type, const std::vector<double>& values)
        : Buffer(type, static_cast<int64_t>(values.size())) {
        for (int64_t i = 0; i < n_; ++i) set(i, values[static_cast<size_t>(i)]);
    }
    static Buffer random(Float type, int64_t n, Generator& generator, double scale = 1) {
        Buffer b(type, n);
        for (int64_t i = 0; i < n; ++i) b.set(i, scale * generator.normal());
        return b;
    }

    void* data() { return bytes_.data() + (guard + 1) * size(); }
    const void* data() const { return bytes_.data() + (guard + 1) * size(); }
    void* at(int64_t i) { return static_cast<uint8_t*>(data()) + static_cast<size_t>(i) * size(); }
    float* floats() { return static_cast<float*>(data()); }
    int64_t n() const { return n_; }

    double get(int64_t i) const {
        const auto* p = static_cast<const uint8_t*>(data()) + static_cast<size_t>(i) * size();
        if (type_ == Float::f32) {
            float f;
            std::memcpy(&f, p, 4);
            return static_cast<double>(f);
        }
        uint16_t h;
        std::memcpy(&h, p, 2);
        return static_cast<double>(from_bits(static_cast<uint32_t>(h) << 16));
    }
    void set(int64_t i, double value) {
        auto* p = static_cast<uint8_t*>(data()) + static_cast<size_t>(i) * size();
        const auto f = static_cast<float>(value);
        if (type_ == Float::f32) {
            std::memcpy(p, &f, 4);
        } else {
            const uint16_t h = reference_bf16(f);
            std::memcpy(p, &h, 2);
        }
    }
    std::vector<double> values() const {
        std::vector<double> out;
        for (int64_t i = 0; i < n_; ++i) out.push_back(get(i));
        return out;
    }
    bool guards_intact() const {
        const size_t front = (guard + 1) * size(), back = front + static_cast<size_t>(n_) * size();
        for (size_t i = 0; i < bytes_.size(); ++i)
            if ((i < front || i >= back) && bytes_[i] != pattern) return false;
        return true;
    }

  private:
    static constexpr size_t guard = 64;
    static constexpr uint8_t pattern = 0xa5;
    size_t size() const { return type_ == Float::f32 ? 4 : 2; }

    Float type_;
    int64_t n_;
    std::vector<uint8_t> bytes_;
};

/// Compares with a tolerance relative to the largest expected magnitude (rounding errors of sums scale with
/// it).
inline void expect_near(const Buffer& got, const std::vector<double>& expected, double tolerance,
                        const std::string& what) {
    ASSERT_EQ(static_cast<size_t>(got.n()), expected.size()) << what;
    EXPECT_TRUE(got.guards_intact()) << what << ": wrote outside";
    double top = 0.1;  // a floor: where terms of order one cancel, their rounding errors stay
    for (const double e : expected)
        if (std::isfinite(e)) top = std::max(top, std::abs(e));
    for (int64_t i = 0; i < got.n(); ++i) {
        const double g = got.get(i), e = expected[static_cast<size_t>(i)];
        if (std::isnan(e)) {
            ASSERT_TRUE(std::isnan(g)) << what << " [" << i << "] = " << g << ", expected NaN";
        } else if (std::isinf(e)) {
            ASSERT_EQ(g, e) << what << " [" << i << "]";
        } else {
            ASSERT_LE(std::abs(g - e), tolerance * top)
                << what << " [" << i << "] = " << g << ", expected " << e;
        }
    }
}

inline const char* name_of(Float type) {
    return type == Float::f32 ? "f32" : "bf16";
}
/// Result tolerance of one rounding of an activation (plus rounded operands in bf16).
inline double tolerance_of(Float type) {
    return type == Float::f32 ? 4e-6 : 1.2e-2;
}

}  // namespace polyad::kernels
