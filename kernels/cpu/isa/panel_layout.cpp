// SPDX-License-Identifier: Apache-2.0
// From ggml's blocks to panels (panels.h).
#include "kernels/cpu/isa/panels.h"

namespace polyad::kernels::POLYAD_ISA {
namespace {

/// One block's integers: codes as its layout stores them (nibbles and sixes with their offset inside), the
/// numbers its steps are multiplied with as bits, and the steps.
struct Block {
    int code[256];
    uint8_t half[4];    ///< scale, minimum
    uint8_t scale[16];  ///< steps; signed ones as their bits
    uint8_t minimum[16];
};

using Reader = void (*)(const uint8_t* p, Block& b);

void halves(Block& b, const uint8_t* scale, const uint8_t* minimum) {
    std::memcpy(b.half, scale, 2);
    if (minimum) std::memcpy(b.half + 2, minimum, 2);
}

void read_q4_0(const uint8_t* p, Block& b) {
    halves(b, p, nullptr);
    for (int i = 0; i < 16; ++i) {
        b.code[i] = p[2 + i] & 15;
        b.code[i + 16] = p[2 + i] >> 4;
    }
}
void read_q4_1(const uint8_t* p, Block& b) {
    halves(b, p, p + 2);
    for (int i = 0; i < 16; ++i) {
        b.code[i] = p[4 + i] & 15;
        b.code[i + 16] = p[4 + i] >> 4;
    }
}
void read_q8_0(const uint8_t* p, Block& b) {
    halves(b, p, nullptr);
    for (int i = 0; i < 32; ++i) b.code[i] = static_cast<int8_t>(p[2 + i]);
}
void read_q5_0(const uint8_t* p, Block& b) {
    halves(b, p, nullptr);
    const uint32_t high = word(p + 2);
    for (int i = 0; i < 16; ++i) {
        b.code[i] = ((p[6 + i] & 15) | static_cast<int>(high >> i & 1) << 4) - 16;
        b.code[i + 16] = ((p[6 + i] >> 4) | static_cast<int>(high >> (i + 16) & 1) << 4) - 16;
    }
}
void read_q5_1(const uint8_t* p, Block& b) {
    halves(b, p, p + 2);
    const uint32_t high = word(p + 4);
    for (int i = 0; i < 16; ++i) {
        b.code[i] = (p[8 + i] & 15) | static_cast<int>(high >> i & 1) << 4;
        b.code[i + 16] = (p[8 + i] >> 4) | static_cast<int>(high >> (i + 16) & 1) << 4;
    }
}
void read_iq4_nl(const uint8_t* p, Block& b) {
    halves(b, p, nullptr);
    for (int i = 0; i < 16; ++i) {
        b.code[i] = iq4_values[p[2 + i] & 15];
        b.code[i + 16] = iq4_values[p[2 + i] >> 4];
    }
}
void read_iq4_xs(const uint8_t* p, Block& b) {
    halves(b, p, nullptr);
    const int high = p[2] | p[3] << 8;
    for (int g = 0; g < 8; ++g) {
        const int step = (p[4 + g / 2] >> (4 * (g % 2)) & 15) | (high >> (2 * g) & 3) << 4;
        b.scale[2 * g] = b.scale[2 * g + 1] = static_cast<uint8_t>(step - 32);
        const uint8_t* q = p + 8 + 16 * g;
        for (int i = 0; i < 16; ++i) {
            b.code[32 * g + i] = iq4_values[q[i] & 15];
            b.code[32 * g + i + 16] = iq4_values[q[i] >> 4];
        }
    }
}
void read_q2_k(const uint8_t* p, Block& b) {
    halves(b, p + 80, p + 82);
    for (int s = 0; s < 16; ++s) {
        b.scale[s] = p[s] & 15;
        b.minimum[s] = p[s] >> 4;
        const uint8_t* q = p + 16 + 32 * (s / 8) + 16 * (s % 2);
        for (int i = 0; i < 16; ++i) b.code[16 * s + i] = q[i] >> (s % 8 / 2 * 2) & 3;
    }
}
void read_q3_k(const uint8_t* p, Block& b) {
    halves(b, p + 108, nullptr);
    const uint8_t* packed = p + 96;
    for (int s = 0; s < 16; ++s) {
        const int low = s < 8 ? packed[s] & 15 : packed[s - 8] >> 4;
        const int high = packed[8 + s % 4] >> (2 * (s / 4)) & 3;
        b.scale[s] = static_cast<uint8_t>((low | high << 4) - 32);
        const int part = s / 8, step = s % 8 / 2, side = s % 2;
        for (int i = 0; i < 16; ++i) {
            const int at = 16 * side + i;
            b.code[16 * s + i] =
                (p[32 + 32 * part + at] >> (2 * step) & 3) - ((p[at] >> (4 * part + step) & 1) ? 0 : 4);
        }
    }
}
void read_steps_k(const uint8_t* p, Block& b) {
    halves(b, p, p + 2);
    for (int g = 0; g < 8; ++g) {
        int s, m;
        scale_min(g, p + 4, s, m);
        b.scale[g] = static_cast<uint8_t>(s);
        b.minimum[g] = static_cast<uint8_t>(m);
    }
}
void read_q4_k(const uint8_t* p, Block& b) {
    read_steps_k(p, b);
    for (int g = 0; g < 8; ++g)
        for (int i = 0; i < 32; ++i) b.code[32 * g + i] = p[16 + 32 * (g / 2) + i] >> (4 * (g % 2)) & 15;
}
void read_q5_k(const uint8_t* p, Block& b) {
    read_steps_k(p, b);
    for (int g = 0; g < 8; ++g)
        for (int i = 0; i < 32; ++i)
            b.code[32 * g + i] = (p[48 + 32 * (g / 2) + i] >> (4 * (g % 2)) & 15) | (p[16 + i] >> g & 1) << 4;
}
void read_q6_k(const uint8_t* p, Block& b) {
    halves(b, p + 208, nullptr);
    std::memcpy(b.scale, p + 192, 16);
    for (int g = 0; g < 8; ++g) {
        const int part = g / 4, quarter = g % 4;
        for (int i = 0; i < 32; ++i) {
            const int four = p[64 * part + 32 * (quarter & 1) + i] >> (4 * (quarter >> 1)) & 15;
            b.code[32 * g + i] = four | (p[128 + 32 * part + i] >> (2 * quarter) & 3) << 4;
        }
    }
}

Reader reader_of(Quant quant) {
    switch (quant) {
        case Quant::q4_0:
            return read_q4_0;
        case Quant::q4_1:
            return read_q4_1;
        case Quant::q5_0:
            return read_q5_0;
        case Quant::q5_1:
            return read_q5_1;
        case Quant::q8_0:
            return read_q8_0;
        case Quant::q2_k:
            return read_q2_k;
        case Quant::q3_k:
            return read_q3_k;
        case Quant::q4_k:
            return read_q4_k;
        case Quant::q5_k:
            return read_q5_k;
        case Quant::q6_k:
            return read_q6_k;
        case Quant::iq4_nl:
            return read_iq4_nl;
        case Quant::iq4_xs:
            return read_iq4_xs;
        default:
            return nullptr;
    }
}

// Where a layout keeps a block's scales.
void store_scales(Halves, uint8_t* p, int64_t block, int lane, const Block& b) {
    std::memcpy(p + (block * lanes + lane) * 2, b.half, 2);
}
void store_scales(HalfPairs, uint8_t* p, int64_t block, int lane, const Block& b) {
    std::memcpy(p + (block * 2 * lanes + lane) * 2, b.half, 2);
    std::memcpy(p + ((block * 2 + 1) * lanes + lane) * 2, b.half + 2, 2);
}
void store_scales(SignedSteps, uint8_t* p, int64_t block, int lane, const Block& b) {
    p += block * lanes * SignedSteps::bytes;
    std::memcpy(p + lane * 2, b.half, 2);
    for (int s = 0; s < 16; ++s) p[lanes * 2 + s * lanes + lane] = b.scale[s];
}
template <int Span>
void store_scales(StepPairs<Span>, uint8_t* p, int64_t block, int lane, const Block& b) {
    p += block * lanes * StepPairs<Span>::bytes;
    std::memcpy(p + lane * 2, b.half, 2);
    std::memcpy(p + (lanes + lane) * 2, b.half + 2, 2);
    for (int s = 0; s < 256 / Span; ++s) {
        p[lanes * 4 + s * 2 * lanes + lane] = b.scale[s];
        p[lanes * 4 + (s * 2 + 1) * lanes + lane] = b.minimum[s];
    }
}

}  // namespace

int64_t panel_bytes(Quant quant, int64_t rows, int64_t columns) {
    int64_t bytes = 0;
    const int64_t panels = (rows + lanes - 1) / lanes;
    with_layout(quant,
                [&]<class Codes, class Scales>() { bytes = panels * panel_size<Codes, Scales>(columns); });
    return bytes;
}

void make_panels(Quant quant, const void* w, const int32_t* source_row, int64_t rows, int64_t columns,
                 void* out) {
    const Reader read = reader_of(quant);
    const BlockSize size_of = block_of(quant);
    const int64_t blocks = columns / size_of.elements, panels = (rows + lanes - 1) / lanes;
    with_layout(quant, [&]<class Codes, class Scales>() {
        const int64_t size = panel_size<Codes, Scales>(columns);
#pragma omp parallel for schedule(static) if (rows * columns >= parallel_elements)
        for (int64_t panel = 0; panel < panels; ++panel) {
            uint8_t* codes = static_cast<uint8_t*>(out) + panel * size;
            uint8_t* scales = codes + columns / group_size * Codes::bytes * lanes;
            std::memset(codes, 0, static_cast<size_t>(size));
            for (int lane = 0; lane < lanes && panel * lanes + lane < rows; ++lane) {
                const int64_t row = panel * lanes + lane, source = source_row ? source_row[row] : row;
                const uint8_t* from = static_cast<const uint8_t*>(w) + source * blocks * size_of.bytes;
                for (int64_t block = 0; block < blocks; ++block, from += size_of.bytes) {
                    Block b;
                    read(from, b);
                    for (int i = 0; i < size_of.elements; ++i) {
                        const int64_t column = block * size_of.elements + i;
                        Codes::store(codes + column / group_size * Codes::bytes * lanes,
                                     static_cast<int>(column % group_size), lane, b.code[i]);
                    }
                    store_scales(Scales{}, scales, block, lane, b);
                }
            }
        }
    });
}

}  // namespace polyad::kernels::POLYAD_ISA
