// SPDX-License-Identifier: Apache-2.0
// The matrix product of tile.h on AMX: C [m, n] (+)= A [m, k] B [k, n] over cells of two bf16, C float32,
// sixteen times the products of vdpbf16ps a cycle. A's cells are contiguous along k, B's along n, rows may
// lie any distance apart. Tiles are shaped to the tails, so nothing outside A, B and C is touched.
#pragma once

#include "kernels/cpu/isa/tile.h"

namespace polyad::kernels::POLYAD_ISA {

/// Whether T's products run on tiles.
template <class T>
inline constexpr bool on_tiles = false;

#if defined(__AMX_BF16__)
template <>
inline constexpr bool on_tiles<bf16> = true;

/// Rows and 4-byte cells of a row of each of the eight tiles, as the CPU takes them.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    void set(int tile, int64_t count, int64_t cells) {
        if (count <= 0 || cells <= 0) return;
        rows[tile] = static_cast<uint8_t>(count);
        row_bytes[tile] = static_cast<uint16_t>(cells * 4);
    }
};

/// One thread's tiles: two of C below each other, so m is at most 32, and n at most 16.
//   0, 1: C   2, 3: A   4: B   5, 6: A's and 7: B's last cells along k where 16 do not divide it
class Tiles {
  public:
    static constexpr int64_t most_rows = 32, most_columns = 16;

    Tiles() = default;
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;

    void multiply(int64_t m, int64_t n, int64_t k, const void* a, int64_t a_bytes, const float* b,
                  int64_t b_stride, float* c, int64_t c_stride, bool add) {
        shape(m, n, k % 16);
        const auto b_bytes = b_stride * 4, c_bytes = c_stride * 4;
        const char *upper = static_cast<const char*>(a), *lower = upper + 16 * a_bytes;
        const bool both = m > 16;
        if (add) {
            _tile_loadd(0, c, c_bytes);
            if (both) _tile_loadd(1, c + 16 * c_stride, c_bytes);
        } else {
            _tile_zero(0);
            if (both) _tile_zero(1);
        }
        for (; k >= 16; k -= 16) {
            _tile_loadd(4, b, b_bytes);
            _tile_loadd(2, upper, a_bytes);
            _tile_dpbf16ps(0, 2, 4);
            if (both) {
                _tile_loadd(3, lower, a_bytes);
                _tile_dpbf16ps(1, 3, 4);
            }
            upper += 64;
            lower += 64;
            b += 16 * b_stride;
        }
        if (k > 0) {
            _tile_loadd(7, b, b_bytes);
            _tile_loadd(5, upper, a_bytes);
            _tile_dpbf16ps(0, 5, 7);
            if (both) {
                _tile_loadd(6, lower, a_bytes);
                _tile_dpbf16ps(1, 6, 7);
            }
        }
        _tile_stored(0, c, c_bytes);
        if (both) _tile_stored(1, c + 16 * c_stride, c_bytes);
    }

  private:
    void shape(int64_t m, int64_t n, int64_t k_rest) {
        if (m == m_ && n == n_ && k_rest == k_rest_) return;
        m_ = m;
        n_ = n;
        k_rest_ = k_rest;
        TileShapes s;
        const int64_t upper = least(m, 16), lower = m - upper;
        s.set(0, upper, n);
        s.set(1, lower, n);
        s.set(2, upper, 16);
        s.set(3, lower, 16);
        s.set(4, 16, n);
        s.set(5, upper, k_rest);
        s.set(6, lower, k_rest);
        s.set(7, k_rest, n);
        _tile_loadconfig(&s);
    }

    int64_t m_ = 0, n_ = 0, k_rest_ = -1;
};
#else
struct Tiles {};  // never used
#endif

/// multiply() of cells that are contiguous along k in A, on tiles where there are any.
template <int Depth>
inline void multiply_lines(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_stride, const float* b,
                           int64_t b_stride, float* c, int64_t c_stride, bool add) {
#if defined(__AMX_BF16__)
    if constexpr (Depth == 2) {
        Tiles tiles;
        for (int64_t i = 0; i < m; i += Tiles::most_rows)
            for (int64_t j = 0; j < n; j += Tiles::most_columns)
                tiles.multiply(least(Tiles::most_rows, m - i), least(Tiles::most_columns, n - j), k,
                               a + i * a_stride, a_stride * 4, b + j, b_stride, c + i * c_stride + j,
                               c_stride, add);
        return;
    }
#endif
    multiply<Depth>(m, n, k, {a, a_stride, 1}, b, b_stride, c, c_stride, add);
}

}  // namespace polyad::kernels::POLYAD_ISA
