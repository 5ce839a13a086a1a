// SPDX-License-Identifier: Apache-2.0
// One native vector of floats under the same names for every instruction set. Written on compiler vector
// types, so the portable set needs no intrinsics; these appear only where the compiler would not find the
// instruction. Everything lives in the set's own namespace: no inline function may be shared between sets, or
// the linker could keep the copy a smaller CPU cannot run. For the same reason the sources use no standard
// containers.
#pragma once

#include <omp.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "kernels/op_table.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif
namespace polyad::kernels::POLYAD_ISA {

#if defined(__AVX512F__)
inline constexpr int lanes = 16;
#elif defined(__AVX2__)
inline constexpr int lanes = 8;
#else
inline constexpr int lanes = 4;
#endif

using bf16 = uint16_t;
using vf = float __attribute__((vector_size(lanes * 4)));
using vi = int32_t __attribute__((vector_size(lanes * 4)));
using vu = uint32_t __attribute__((vector_size(lanes * 4)));
using vh = uint16_t __attribute__((vector_size(lanes * 2)));

inline vf splat(float x) {
    return vf{} + x;
}
inline vu bits_of(vf x) {
    return reinterpret_cast<vu>(x);
}
inline vf float_of(vu x) {
    return reinterpret_cast<vf>(x);
}

// ---- loads and stores ----
/// `Whole` moves all lanes, `Part` the first `count`; the others read as zero.
struct Whole {};
struct Part {
    int64_t count;
};

inline vf load(const float* p, Whole = {}) {
    vf v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline void store(float* p, vf v, Whole = {}) {
    std::memcpy(p, &v, sizeof v);
}
inline vf widen(vh h) {
#if defined(__AVX512F__)
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16);
#elif defined(__AVX2__)
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)h), 16);
#else
    return float_of(__builtin_convertvector(h, vu) << 16);
#endif
}
inline vf load(const bf16* p, Whole = {}) {
    vh h;
    std::memcpy(&h, p, sizeof h);
    return widen(h);
}

/// Upper halves after rounding to nearest even; NaN stays NaN (made quiet). Exact for subnormals as well.
inline vu rounded_bits(vf v) {
    const vu b = bits_of(v);
    const vu rounded = (b + 0x7fffu + ((b >> 16) & 1u)) >> 16;
    const vu quiet = (b >> 16) | 0x40u;
    return (v != v) ? quiet : rounded;
}
inline vh low_halves(vu b) {
#if defined(__AVX512F__)
    return (vh)_mm512_cvtepi32_epi16((__m512i)b);
#elif defined(__AVX2__)
    const __m256i packed = _mm256_packus_epi32((__m256i)b, (__m256i)b);
    return (vh)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
    return __builtin_convertvector(b, vh);
#endif
}
/// What activations are stored with. The bf16 instruction takes subnormals for zero, which is of no account
/// here.
inline vh narrow(vf v) {
#if defined(__AVX512BF16__)
    return (vh)_mm512_cvtneps_pbh((__m512)v);
#else
    return low_halves(rounded_bits(v));
#endif
}
inline void store(bf16* p, vf v, Whole = {}) {
    const vh h = narrow(v);
    std::memcpy(p, &h, sizeof h);
}

inline vf load(const float* p, Part part) {
#if defined(__AVX512F__)
    return (vf)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << part.count) - 1), p);
#else
    vf v{};
    std::memcpy(&v, p, static_cast<size_t>(part.count) * 4);
    return v;
#endif
}
inline void store(float* p, vf v, Part part) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << part.count) - 1), (__m512)v);
#else
    std::memcpy(p, &v, static_cast<size_t>(part.count) * 4);
#endif
}
inline vf load(const bf16* p, Part part) {
    vh h{};
    std::memcpy(&h, p, static_cast<size_t>(part.count) * 2);
    return widen(h);
}
inline void store(bf16* p, vf v, Part part) {
    const vh h = narrow(v);
    std::memcpy(p, &h, static_cast<size_t>(part.count) * 2);
}

/// Calls body(i, Whole or Part) over [0, n).
template <class Body>
inline void sweep(int64_t n, Body&& body) {
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) body(i, Whole{});
    if (i < n) body(i, Part{n - i});
}

/// Runs f with a value of the element type.
template <class F>
inline void with_type(Float type, F&& f) {
    if (type == Float::bf16)
        f(bf16{});
    else
        f(float{});
}

// ---- scalars ----
inline float to_float(float x) {
    return x;
}
inline float to_float(bf16 x) {
    const uint32_t b = static_cast<uint32_t>(x) << 16;
    float f;
    std::memcpy(&f, &b, 4);
    return f;
}
inline bf16 rounded(float x) {
    uint32_t b;
    std::memcpy(&b, &x, 4);
    if (x != x) return static_cast<bf16>(b >> 16 | 0x40u);
    return static_cast<bf16>((b + 0x7fffu + (b >> 16 & 1u)) >> 16);
}
inline void assign(float& to, float x) {
    to = x;
}
inline void assign(bf16& to, float x) {
    to = rounded(x);
}
inline int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}
inline int64_t most(int64_t a, int64_t b) {
    return a > b ? a : b;
}
inline int64_t round_up(int64_t n, int64_t step) {
    return (n + step - 1) / step * step;
}

// ---- arithmetic ----
/// a * b + c.
inline vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}
/// The larger one; the second where either is NaN.
inline vf larger(vf a, vf b) {
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return (a > b) ? a : b;
#endif
}
inline vf square_root(vf x) {
#if defined(__AVX512F__)
    return (vf)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (vf)_mm256_sqrt_ps((__m256)x);
#else
    vf y;
    for (int i = 0; i < lanes; ++i) y[i] = __builtin_sqrtf(x[i]);
    return y;
#endif
}
inline float sum(vf v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float s[lanes];
    std::memcpy(s, &v, sizeof s);
    for (int step = lanes / 2; step > 0; step /= 2)
        for (int i = 0; i < step; ++i) s[i] += s[i + step];
    return s[0];
#endif
}
/// <a, b> over n values of any element types.
template <class A, class B>
inline float dot(const A* a, const B* b, int64_t n) {
    vf products = {};
    sweep(n, [&](int64_t i, auto part) { products = fma(load(a + i, part), load(b + i, part), products); });
    return sum(products);
}
/// Largest lane; NaN lanes are passed over unless all are.
inline float largest(vf v) {
    float s[lanes];
    std::memcpy(s, &v, sizeof s);
    float m = s[0];
    for (int i = 1; i < lanes; ++i) m = (s[i] > m || m != m) ? s[i] : m;
    return m;
}

/// The nearer bound where x lies outside; NaN stays NaN.
inline vf bounded(vf x, float low, float high) {
#if defined(__AVX512F__)
    // max and min return their second operand where either is NaN.
    return (vf)_mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), (__m512)x));
#elif defined(__AVX2__)
    return (vf)_mm256_min_ps(_mm256_set1_ps(high), _mm256_max_ps(_mm256_set1_ps(low), (__m256)x));
#else
    x = (x < splat(low)) ? splat(low) : x;
    return (x > splat(high)) ? splat(high) : x;
#endif
}

inline constexpr float log2_e = 1.44269504088896341f;

/// p(r) 2^n for `shifted` = 1.5 * 2^23 + 127 + n, whose low bits shifted into the exponent are 2^n; n = -127
/// gives 0, n = 128 infinity. |r| <= 1/2; the polynomial is Cephes' for 2^r.
inline vf two_to(vf r, vf shifted) {
    vf p = splat(1.535336188319500e-4f);
    p = fma(p, r, splat(1.339887440266574e-3f));
    p = fma(p, r, splat(9.618437357674640e-3f));
    p = fma(p, r, splat(5.550332471162809e-2f));
    p = fma(p, r, splat(2.402264791363012e-1f));
    p = fma(p, r, splat(6.931472028550421e-1f));
    p = fma(p, r, splat(1.0f));
    return p * float_of(bits_of(shifted) << 23);
}

/// 2^x, about one unit in the last place; NaN stays NaN. Below -126.5 it is 0, above 127.5 infinity.
inline vf power_of_two(vf x) {
    x = bounded(x, -127.2f, 128.2f);
    const vf magic = splat(12582912.0f + 127.0f);
    const vf shifted = x + magic;
    return two_to(x - (shifted - magic), shifted);
}

/// e^x with the same accuracy and limits: x log2(e) = n + r, the rest r to full precision.
inline vf exponential(vf x) {
    x = bounded(x, -88.2f, 88.8f);
    const vf magic = splat(12582912.0f + 127.0f);
    const vf shifted = fma(x, splat(log2_e), magic);
    const vf n = shifted - magic;
#if defined(__AVX2__)
    vf r = fma(x, splat(log2_e), -n);
    r = fma(x, splat(1.92596299112661746887e-8f), r);
    return two_to(r, shifted);
#else
    // Without fused operations: ln 2 in two parts, the first of few enough bits that n times it is exact.
    const vf r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    return two_to(r * log2_e, shifted);
#endif
}

/// 1 / (1 + e^-x).
inline vf sigmoid(vf x) {
    return 1.0f / (1.0f + exponential(-x));
}

// ---- call-local memory ----
/// What one thread's Scratch lies in, kept from call to call: memory given back to malloc in pieces of this
/// size comes back slowly. Grows to what calls needed at once.
class ScratchStack {
  public:
    ScratchStack() = default;
    ~ScratchStack() { std::free(base_); }
    ScratchStack(const ScratchStack&) = delete;
    ScratchStack& operator=(const ScratchStack&) = delete;

    void* push(size_t bytes) {
#if !defined(__SANITIZE_ADDRESS__)  // each alone there, so that what reads beyond one is seen
        if (used_ == 0 && wanted_ > size_) {
            std::free(base_);
            base_ = static_cast<char*>(std::aligned_alloc(64, wanted_));
            size_ = base_ ? wanted_ : 0;
        }
        used_ += bytes;
        if (used_ <= size_) return base_ + used_ - bytes;
        if (used_ <= most_kept) wanted_ = used_ > wanted_ ? used_ : wanted_;
#else
        used_ += bytes;
#endif
        void* const apart = std::aligned_alloc(64, bytes);
        if (!apart) {
            used_ -= bytes;
            throw std::bad_alloc();
        }
        return apart;
    }
    void pop(void* data, size_t bytes) {
        const auto* const at = static_cast<char*>(data);
        if (at < base_ || at >= base_ + size_) std::free(data);
        used_ -= bytes;
    }

  private:
    static constexpr size_t most_kept = size_t{64} << 20;
    char* base_ = nullptr;
    size_t size_ = 0, used_ = 0, wanted_ = 0;
};
inline thread_local ScratchStack scratch_stack;

/// Made and destroyed by one thread, the last made first.
template <class T>
class Scratch {
  public:
    explicit Scratch(int64_t count)
        : bytes_((static_cast<size_t>(count) * sizeof(T) / 64 + 1) * 64),
          data_(static_cast<T*>(scratch_stack.push(bytes_))) {}
    ~Scratch() { scratch_stack.pop(data_, bytes_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    T* get() const { return data_; }
    T& operator[](int64_t i) const { return data_[i]; }

  private:
    const size_t bytes_;
    T* const data_;
};

inline int thread_limit() {
    return omp_get_max_threads();
}
/// Threads of the parallel region that runs.
inline int team_size() {
    return omp_get_num_threads();
}
inline int thread_number() {
    return omp_get_thread_num();
}

/// Elements of simple element-wise work from which a second thread pays.
inline constexpr int64_t parallel_elements = 32768;

}  // namespace polyad::kernels::POLYAD_ISA
