// SPDX-License-Identifier: Apache-2.0
// The CUDA library under test, loaded as the core loads it, and arrays that live on both sides.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_library.h"
#include "kernels/op_table.h"

namespace polyad::kernels {

/// The library beside the executable's build, or the one POLYAD_CUDA_LIBRARY names. Null with a message in
/// `why`.
inline const CudaLibrary* load_library(const char* version, std::string& why) {
    const char* named = std::getenv("POLYAD_CUDA_LIBRARY");
    void* handle = dlopen(named ? named : POLYAD_CUDA_LIBRARY_PATH, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        why = dlerror();
        return nullptr;
    }
    const auto entry = reinterpret_cast<CudaLibraryFunction>(dlsym(handle, POLYAD_CUDA_LIBRARY_SYMBOL));
    if (!entry) {
        why = "no entry point";
        return nullptr;
    }
    char text[512] = "";
    const CudaLibrary* library = entry(version, text, sizeof text);
    why = text;
    return library;
}

/// Null where tests that need a device are to be skipped.
inline const CudaLibrary* device_library() {
    static const CudaLibrary* library = [] {
        std::string why;
        const CudaLibrary* loaded = load_library(POLYAD_VERSION, why);
        char text[512] = "";
        if (!loaded || loaded->device_count(text, sizeof text) == 0)
            return static_cast<const CudaLibrary*>(nullptr);
        loaded->set_stream(0, loaded->stream_create());
        return loaded;
    }();
    return library;
}

inline float from_bf16_bits(uint16_t h) {
    const uint32_t bits = static_cast<uint32_t>(h) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
inline uint16_t bf16_bits(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    if (std::isnan(f)) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

enum class Side { host, device };

/// n elements on both sides with guards around them; `shift` elements away from 16-byte alignment.
class Array {
  public:
    Array(Float type, int64_t n, int shift = 0)
        : type_(type), n_(n), front_(guard + static_cast<size_t>(shift) * size()) {
        bytes_.assign(front_ + static_cast<size_t>(n) * size() + guard, pattern);
        std::memset(bytes_.data() + front_, 0, static_cast<size_t>(n) * size());
        device_ = static_cast<uint8_t*>(device_library()->allocate(bytes_.size()));
        EXPECT_NE(device_, nullptr);
        push();
    }
    ~Array() { device_library()->release(device_); }
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;

    static constexpr size_t guard = 256;
    int64_t n() const { return n_; }
    void* at(Side side, int64_t i = 0) {
        return (side == Side::host ? bytes_.data() : device_) + front_ + static_cast<size_t>(i) * size();
    }
    float* floats(Side side, int64_t i = 0) { return static_cast<float*>(at(side, i)); }
    double get(int64_t i) const { return read(bytes_, i); }
    void set(int64_t i, double value) {
        uint8_t* p = bytes_.data() + front_ + static_cast<size_t>(i) * size();
        const auto f = static_cast<float>(value);
        const uint16_t h = bf16_bits(f);
        if (type_ == Float::f32)
            std::memcpy(p, &f, 4);
        else
            std::memcpy(p, &h, 2);
    }
    /// Normal numbers, the same on both sides.
    Array& random(std::mt19937_64& generator, double scale = 1) {
        std::normal_distribution<double> normal;
        for (int64_t i = 0; i < n_; ++i) set(i, scale * normal(generator));
        push();
        return *this;
    }
    void push() { device_library()->copy(device_, bytes_.data(), bytes_.size()); }

    /// The device's values against the host's: the difference relative to the largest magnitude there.
    void expect_same(double tolerance, const std::string& what) {
        std::vector<uint8_t> got(bytes_.size());
        device_library()->copy(got.data(), device_, got.size());
        for (size_t i = 0; i < got.size(); ++i) {
            if (i >= front_ && i < front_ + static_cast<size_t>(n_) * size()) continue;
            ASSERT_EQ(got[i], pattern) << what << ": wrote outside at byte " << i;
        }
        double top = 0.1;
        for (int64_t i = 0; i < n_; ++i)
            if (std::isfinite(get(i))) top = std::max(top, std::abs(get(i)));
        for (int64_t i = 0; i < n_; ++i) {
            const double g = read(got, i), e = get(i);
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
    std::vector<double> device_values() {
        std::vector<uint8_t> got(bytes_.size());
        device_library()->copy(got.data(), device_, got.size());
        std::vector<double> out;
        for (int64_t i = 0; i < n_; ++i) out.push_back(read(got, i));
        return out;
    }

  private:
    static constexpr uint8_t pattern = 0xa5;
    size_t size() const { return type_ == Float::f32 ? 4 : 2; }
    double read(const std::vector<uint8_t>& bytes, int64_t i) const {
        const uint8_t* p = bytes.data() + front_ + static_cast<size_t>(i) * size();
        float f;
        uint16_t h;
        std::memcpy(&f, p, type_ == Float::f32 ? 4 : 2);
        std::memcpy(&h, p, 2);
        return static_cast<double>(type_ == Float::f32 ? f : from_bf16_bits(h));
    }

    Float type_;
    int64_t n_;
    size_t front_;
    std::vector<uint8_t> bytes_;
    uint8_t* device_;
};

/// Integers on the device.
struct Ints {
    explicit Ints(int64_t count)
        : n(count),
          device(static_cast<int32_t*>(device_library()->allocate(static_cast<uint64_t>(count) * 4))) {}
    ~Ints() { device_library()->release(device); }
    Ints(const Ints&) = delete;
    Ints& operator=(const Ints&) = delete;
    std::vector<int32_t> values() const {
        std::vector<int32_t> out(static_cast<size_t>(n));
        device_library()->copy(out.data(), device, out.size() * 4);
        return out;
    }
    int64_t n;
    int32_t* device;
};

/// Runs body(table, side) on both sides and expects no error.
template <class Body>
void on_both(const std::string& what, Body&& body) {
    body(*ops_for("portable"), Side::host);
    body(*device_library()->ops, Side::device);
    device_library()->synchronise();
    const char* error = device_library()->take_error();
    ASSERT_EQ(error, nullptr) << what << ": " << error;
}

class CudaKernels : public testing::Test {
  protected:
    void SetUp() override {
        if (!device_library()) GTEST_SKIP() << "skipped: no CUDA device";
    }
    std::mt19937_64 random{20260101};
};

inline const char* name_of(Float type) {
    return type == Float::f32 ? "f32" : "bf16";
}
/// Sums in another order; bf16: a rounding of the result and of operands on the way.
inline double tolerance_of(Float type) {
    return type == Float::f32 ? 2e-5 : 1.2e-2;
}
inline constexpr Float both_types[] = {Float::f32, Float::bf16};

}  // namespace polyad::kernels
