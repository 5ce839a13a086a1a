// SPDX-License-Identifier: Apache-2.0
// Products of many tokens with frozen bf16 weights. A thread owns panels of 32 outputs: their weights are
// laid out as cells, as many panels as its L2 cache keeps, and meet every block of tokens there.
#include "kernels/cpu/isa/amx.h"
#include "kernels/cpu/isa/kernels.h"

#if defined(__AVX512BF16__)
namespace polyad::kernels::POLYAD_ISA {
namespace {

constexpr int64_t side = 32;  // outputs of a panel
constexpr int64_t jobs_per_thread = 3;

#if defined(__AMX_BF16__)
// Each half of a panel, 16 outputs, is tiles one behind the other.
constexpr int64_t block_tokens = 32;                // two tiles each way
constexpr int64_t packed_bytes = int64_t{1} << 20;  // panels a thread keeps laid out
constexpr int64_t line_cells = 16;
#else
// A panel is a line of 32 cells for every two values of x.
constexpr int64_t block_tokens = 12;  // their sums fill 24 of 32 vector registers
constexpr int64_t packed_bytes = int64_t{1} << 19;
constexpr int64_t line_cells = side;
#endif

/// Cells from one half of a panel's line to the other.
int64_t half_of(const DenseWeights& weights) {
    return line_cells == side ? side / 2 : weights.depth() * 8;
}
int64_t cells_of_panel(const DenseWeights& weights) {
    return weights.depth() * side / 2;
}

/// Cell j of a panel's line k: the weights by which output j takes values 2k and 2k + 1 of x.
void lay_out(const DenseWeights& weights, int64_t panel, int64_t count, float* cells) {
    const int64_t columns = weights.columns, half = half_of(weights);
    if (!weights.backward) {
        for (int64_t i = 0; i < count * 2; ++i) {
            const bf16* from = weights.w + (panel * 2 + i) * 16 * columns;
            float* to = cells + i / 2 * cells_of_panel(weights) + i % 2 * half;
            for (int64_t k = 0; k < columns; k += 32) {
                __m512 block[16];
                for (int j = 0; j < 16; ++j) block[j] = _mm512_loadu_ps(from + j * columns + k);
                transpose16(block);
                for (int j = 0; j < 16; ++j) _mm512_store_ps(to + (k / 2 + j) * line_cells, block[j]);
            }
        }
        return;
    }
    for (int64_t k = 0; k < weights.rows; k += 2) {
        const bf16* first = weights.w + k * columns + panel * side;
        float* to = cells + k / 2 * line_cells;
        for (int64_t i = 0; i < count; ++i) {
            vf low, high;
            interleave(_mm512_loadu_si512(first), _mm512_loadu_si512(first + columns), low, high);
            store(to, low);
            store(to + half, high);
            first += side;
            to += cells_of_panel(weights);
        }
    }
}

/// Tokens [first, last) by panels [panel, panel + count).
struct Job {
    int64_t first, last, panel, count;
};

#if defined(__AMX_BF16__)
constexpr int64_t sums_of_block = block_tokens * side;
constexpr int64_t tile_cells = 256;  // 16 rows of 16 cells
constexpr int64_t most_depth = 640;  // values of 32 tokens that the L1 cache holds

/// Brings `count` values that will be read soon nearer, a few lines at each of `steps` of something else.
class Fetch {
  public:
    Fetch(const bf16* at, int64_t count, int64_t steps)
        : at_(at), lines_(count / side), per_step_(least(most_per_step, (lines_ + steps - 1) / steps)) {}

    void step() {
        for (int64_t i = 0; i < per_step_ && lines_ > 0; ++i, --lines_, at_ += side)
            __builtin_prefetch(at_, 0, 2);
    }

  private:
    static constexpr int64_t most_per_step = 4;
    const bf16* at_;
    int64_t lines_, per_step_;
};

/// A block of sums on its way into y.
struct Finished {
    const float* sums = nullptr;
    bf16* y = nullptr;
    int64_t stride = 0, rows = 0, next = 0;

    void store_rows(bool add, int64_t count) {
        const int64_t end = least(rows, next + count);
        for (; next < end; ++next) {
            bf16* to = y + next * stride;
            for (int64_t i = 0; i < side; i += lanes) {
                const vf sum = load(sums + next * side + i);
                store(to + i, add ? sum + load(to + i) : sum);
            }
        }
    }
};

/// One thread's tiles, all of them whole: a block's tokens stay in the L1 cache, so weights are loaded past
/// it; while one block of sums grows in tiles the one before it is rounded and stored, and the tokens after
/// it are fetched. 0 to 3: sums   4, 5: tokens   6, 7: weights
class BlockTiles {
  public:
    BlockTiles() {
        TileShapes shapes;
        for (int i = 0; i < 8; ++i) shapes.set(i, 16, 16);
        _tile_loadconfig(&shapes);
    }
    ~BlockTiles() { _tile_release(); }
    BlockTiles(const BlockTiles&) = delete;
    BlockTiles& operator=(const BlockTiles&) = delete;

    /// sums (+)= x [32, depth] by the weights at `cells`, storing `before` in between.
    void multiply(const bf16* x, int64_t x_stride, const float* cells, int64_t half, int64_t depth, bool more,
                  float* sums, Finished& before, bool add, Fetch& next) {
        constexpr int64_t line = side * 4, below = side * 16;
        if (more) {
            _tile_loadd(0, sums, line);
            _tile_loadd(1, sums + 16, line);
            _tile_loadd(2, sums + below, line);
            _tile_loadd(3, sums + below + 16, line);
        } else {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
        }
        const bf16* lower = x + 16 * x_stride;
        const float* right = cells + half;
        for (int64_t k = 0; k < depth; k += side) {
            _tile_stream_loadd(6, cells, 64);
            _tile_loadd(4, x + k, x_stride * 2);
            _tile_dpbf16ps(0, 4, 6);
            _tile_stream_loadd(7, right, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, lower + k, x_stride * 2);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
            cells += tile_cells;
            right += tile_cells;
            before.store_rows(add, 4);
            next.step();
        }
        before.store_rows(add, side);
        _tile_stored(0, sums, line);
        _tile_stored(1, sums + 16, line);
        _tile_stored(2, sums + below, line);
        _tile_stored(3, sums + below + 16, line);
    }
};

/// One thread's scratch: laid out panels, sums, the last tokens.
struct Room {
    float *cells, *sums;
    bf16* rest;

    static int64_t size(const DenseWeights& w, int64_t panels) {
        return panels * cells_of_panel(w) + panels * sums_of_block + w.depth() * block_tokens / 2;
    }
    Room(float* at, const DenseWeights& w, int64_t panels)
        : cells(at),
          sums(cells + panels * cells_of_panel(w)),
          rest(reinterpret_cast<bf16*>(sums + panels * sums_of_block)) {}
};

void run(BlockTiles& tiles, const Job& job, const DenseWeights& w, const bf16* x, const Room& room, bool add,
         bf16* y) {
    const int64_t depth = w.depth();
    // Pieces of equal depth, whole tiles each.
    const int64_t pieces = (depth + most_depth - 1) / most_depth;
    const int64_t piece = round_up((depth + pieces - 1) / pieces, side);
    Finished before;
    for (int64_t t = job.first; t < job.last; t += block_tokens) {
        const int64_t tokens = least(block_tokens, job.last - t);
        const bf16* block = x + t * depth;
        if (tokens < block_tokens) {
            std::memcpy(room.rest, block, static_cast<size_t>(tokens * depth) * 2);
            std::memset(room.rest + tokens * depth, 0,
                        static_cast<size_t>((block_tokens - tokens) * depth) * 2);
            block = room.rest;
        }
        const int64_t behind = t + tokens;
        Fetch next(x + behind * depth, least(block_tokens, job.last - behind) * depth,
                   job.count * depth / side);
        for (int64_t k = 0; k < depth; k += piece)
            for (int64_t i = 0; i < job.count; ++i) {
                float* sums = room.sums + (pieces == 1 ? 0 : i) * sums_of_block;
                tiles.multiply(block + k, depth, room.cells + i * cells_of_panel(w) + k * 8, half_of(w),
                               least(piece, depth - k), k > 0, sums, before, add, next);
                if (k + piece >= depth)
                    before = {sums, y + t * w.outputs() + (job.panel + i) * side, w.outputs(), tokens};
            }
    }
    before.store_rows(add, side);
}

#else
/// Needs nothing between its jobs.
struct BlockTiles {};

struct Room {
    float* cells;

    static int64_t size(const DenseWeights& w, int64_t panels) { return panels * cells_of_panel(w); }
    Room(float* at, const DenseWeights&, int64_t) : cells(at) {}
};

/// tile() of up to Rows tokens, each number of them unrolled.
template <int Rows = block_tokens>
void some_rows(int64_t rows, Operand x, const float* cells, bf16* y, int64_t outputs, int64_t line,
               bool add) {
    if (rows == Rows)
        tile<2, Rows, 2>(x, cells, side, y, outputs, line, add);
    else if constexpr (Rows > 1)
        some_rows<Rows - 1>(rows, x, cells, y, outputs, line, add);
}

/// Sums in registers over the whole depth, of blocks of nearly equal size: one of few tokens would wait for
/// its own sums.
void run(BlockTiles&, const Job& job, const DenseWeights& w, const bf16* x, const Room& room, bool add,
         bf16* y) {
    const int64_t line = w.depth() / 2, outputs = w.outputs(), n = job.last - job.first;
    const int64_t blocks = (n + block_tokens - 1) / block_tokens;
    for (int64_t k = 0; k < blocks; ++k) {
        const int64_t t = job.first + n * k / blocks, tokens = job.first + n * (k + 1) / blocks - t;
        const Operand block{reinterpret_cast<const float*>(x + t * w.depth()), line, 1};
        for (int64_t i = 0; i < job.count; ++i)
            some_rows(tokens, block, room.cells + i * cells_of_panel(w),
                      y + t * outputs + (job.panel + i) * side, outputs, line, add);
    }
}
#endif

}  // namespace

void multiply_dense(const uint16_t* x, int64_t n, const DenseWeights& weights, int add, uint16_t* y) {
    if (n <= 0) return;
    const int64_t panels = weights.outputs() / side, blocks = (n + block_tokens - 1) / block_tokens;
    const int64_t threads = thread_limit();
    // Panels are what threads share; where they are few, tokens are shared as well, and a panel is laid out
    // once for each part of them.
    const int64_t parts = least(blocks, (threads * jobs_per_thread + panels - 1) / panels);
    const int64_t jobs = parts * panels;
    const int64_t kept =
        most(1, least(packed_bytes / (cells_of_panel(weights) * 4), (jobs + threads - 1) / threads));
    const int64_t room = Room::size(weights, kept);
    const Scratch<float> scratch(threads * room);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < threads; ++i) {
        BlockTiles tiles;
        const Room mine(scratch.get() + i * room, weights, kept);
        const int64_t end = jobs * (i + 1) / threads;
        for (int64_t at = jobs * i / threads; at < end;) {
            const int64_t part = at / panels, panel = at % panels;
            const int64_t count = least(kept, least(panels - panel, end - at));
            const int64_t first = blocks * part / parts * block_tokens;
            const int64_t last = blocks * (part + 1) / parts * block_tokens;
            lay_out(weights, panel, count, mine.cells);
            run(tiles, {first, least(n, last), panel, count}, weights, x, mine, add != 0, y);
            at += count;
        }
    }
}

}  // namespace polyad::kernels::POLYAD_ISA
#endif
