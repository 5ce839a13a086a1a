// SPDX-License-Identifier: Apache-2.0
// The routed low-rank operator: many tokens go over tensor cores tile by tile, few of them (or another type
// than bf16) token by token.
#include <limits>
#include <type_traits>

#include "kernels/cuda/low_rank_rows.cuh"
#include "kernels/cuda/low_rank_tiles.cuh"
#include "kernels/cuda/ops.h"

namespace polyad::kernels::cuda {
namespace {

/// Adds each group's partial gradients [items][size] in order: grid (parts of size, groups).
__global__ void __launch_bounds__(row_threads)
    add_items(const float* partial, const GroupItems* groups, int64_t size, float* gradient) {
    const GroupItems group = groups[blockIdx.y];
    const int64_t at = static_cast<int64_t>(blockIdx.x) * row_threads + threadIdx.x;
    if (at >= size) return;
    float sum = 0.0f;
    for (int i = group.first; i < group.last; ++i) sum += partial[i * size + at];
    gradient[group.group * size + at] += sum;
}

/// out[i] = sum over parts of partial[part][i].
__global__ void __launch_bounds__(row_threads)
    add_parts(const float* partial, int parts, int64_t size, float* out) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * row_threads + threadIdx.x;
    if (at >= size) return;
    float sum = partial[at];
    for (int i = 1; i < parts; ++i) sum += partial[i * size + at];
    out[at] = sum;
}

struct Problem {
    Problem(Call& c, const int32_t* group_of_row, Rows r) : call(c), rows(r), host_group(group_of_row) {
        tokens = r.count > 0 ? r.begin[r.count] : 0;
        segments = segments_of(group_of_row, r);
    }
    Groups groups() const {
        return {call.stage(host_group, rows.count), call.stage(rows.begin, rows.count + 1), rows.count};
    }
    /// Few tokens a segment would leave most of a tile empty.
    bool by_rows() const { return tokens < 16 * static_cast<int64_t>(segments.size()) || tokens <= 16; }

    Call& call;
    Rows rows;
    const int32_t* host_group;
    int64_t tokens;
    std::vector<Segment> segments;
};

int padded(int64_t rank) {
    return rank <= 16 ? 16 : rank <= 32 ? 32 : rank <= 64 ? 64 : 128;
}

/// Calls body with the padded rank as a constant.
template <class Body>
void with_rank(int64_t rank, Body&& body) {
    switch (padded(rank)) {
        case 16:
            return body(std::integral_constant<int, 16>{});
        case 32:
            return body(std::integral_constant<int, 32>{});
        case 64:
            return body(std::integral_constant<int, 64>{});
        default:
            return body(std::integral_constant<int, 128>{});
    }
}

template <int Rank, bool Transposed>
void launch_project(const Problem& p, const bf16* x, const FactorPlaces& m, bool aligned_m, int64_t d,
                    int64_t rank, float scale, float* out) {
    using Shape = ProjectShape<Rank, Transposed>;
    const std::vector<Segment> tiles = tiles_of(p.segments, tile_tokens);
    const int64_t chunks = (rank + Rank - 1) / Rank, count = static_cast<int64_t>(tiles.size());
    // Enough blocks to keep every multiprocessor reading; a part is at least four steps long.
    const int64_t wanted = 2 * p.call.multiprocessors();
    const int64_t longest = (d + 4 * Shape::depth - 1) / (4 * Shape::depth);
    const int64_t parts =
        std::max<int64_t>(1, std::min(longest, wanted / std::max<int64_t>(1, count * chunks)));
    const int64_t part = ((d + parts - 1) / parts + Shape::depth - 1) / Shape::depth * Shape::depth;
    const int64_t used = (d + part - 1) / part, size = p.tokens * rank;
    float* to = used > 1 ? p.call.scratch<float>(used * size) : out;
    p.call.allow_shared(project_tiles<Rank, Transposed>, Shape::bytes);
    const dim3 grid(static_cast<unsigned>(count), static_cast<unsigned>(used), static_cast<unsigned>(chunks));
    project_tiles<Rank, Transposed><<<grid, tile_threads, Shape::bytes, p.call.stream()>>>(
        x, m, p.call.stage(tiles), static_cast<int>(d), static_cast<int>(rank), static_cast<int>(part), scale,
        size, d % 8 == 0 && aligned16(x), (Transposed ? rank % 8 == 0 : d % 8 == 0) && aligned_m, to);
    p.call.launched();
    if (used == 1) return;
    add_parts<<<blocks_for(size, row_threads), row_threads, 0, p.call.stream()>>>(to, static_cast<int>(used),
                                                                                  size, out);
    p.call.launched();
}

template <int Rank, bool Transposed>
void launch_expand(const Problem& p, const float* v, const FactorPlaces& m, bool aligned_m, int64_t d,
                   int64_t rank, float scale, bf16* y) {
    using Shape = ExpandShape<Rank, Transposed>;
    const std::vector<Segment> tiles = tiles_of(p.segments, tile_tokens);
    p.call.allow_shared(expand_tiles<Rank, Transposed>, Shape::bytes);
    const dim3 grid(blocks_for(d, Shape::columns), static_cast<unsigned>(tiles.size()));
    expand_tiles<Rank, Transposed><<<grid, tile_threads, Shape::bytes, p.call.stream()>>>(
        v, m, p.call.stage(tiles), static_cast<int>(d), static_cast<int>(rank), scale,
        rank % 4 == 0 && aligned16(v), (Transposed ? rank % 8 == 0 : d % 8 == 0) && aligned_m,
        d % 8 == 0 && aligned16(y), y);
    p.call.launched();
}

template <class T>
void outer(const Problem& p, const float* v, const T* x, int64_t d, int64_t rank, float scale,
           bool transposed, float* gradient) {
    int64_t most = std::numeric_limits<int32_t>::max();
    if (sizeof(T) == 2) {  // about three blocks a multiprocessor, of at least 128 tokens
        const int64_t columns =
            (d + OuterShape<16>::columns - 1) / OuterShape<16>::columns * ((rank + 127) / 128);
        const int64_t items = std::max<int64_t>(1, 3 * p.call.multiprocessors() / columns);
        most = std::max<int64_t>(128, ((p.tokens + items - 1) / items + 31) / 32 * 32);
    }
    const GradientPlan plan =
        gradient_plan(p.segments, static_cast<int32_t>(std::min<int64_t>(most, 1 << 30)));
    if (plan.items.empty()) return;
    const Segment* items = p.call.stage(plan.items);
    const GroupItems* groups = p.call.stage(plan.groups);
    const auto group_count = static_cast<unsigned>(plan.groups.size());
    const int64_t size = rank * d;
    if constexpr (sizeof(T) == 4) {
        outer_elements<<<dim3(blocks_for(size, row_threads), group_count), row_threads, 0, p.call.stream()>>>(
            v, x, items, groups, static_cast<int>(d), static_cast<int>(rank), scale, transposed, gradient);
        p.call.launched();
    } else {
        const bool split = plan.split();
        float* out = split ? p.call.scratch<float>(static_cast<int64_t>(plan.items.size()) * size) : gradient;
        with_rank(rank, [&](auto constant) {
            constexpr int ranks = constant;
            using Shape = OuterShape<ranks>;
            p.call.allow_shared(outer_tiles<ranks>, Shape::bytes);
            const dim3 grid(blocks_for(d, Shape::columns), static_cast<unsigned>(plan.items.size()),
                            blocks_for(rank, ranks));
            outer_tiles<ranks><<<grid, tile_threads, Shape::bytes, p.call.stream()>>>(
                v, x, items, static_cast<int>(d), static_cast<int>(rank), scale, transposed, !split,
                rank % 4 == 0 && aligned16(v), d % 8 == 0 && aligned16(x), out);
            p.call.launched();
        });
        if (!split) return;
        add_items<<<dim3(blocks_for(size, row_threads), group_count), row_threads, 0, p.call.stream()>>>(
            out, groups, size, gradient);
        p.call.launched();
    }
}

void require(bool ok, const char* what) {
    if (!ok) fail("low-rank operator: %s", what);
}

/// Dynamic shared memory for one token's ranks.
int rank_bytes(int64_t rank) {
    require(rank > 0 && rank <= 8192, "the rank is 1 to 8192");
    return static_cast<int>((rank + 3) / 4 * 16);  // whole vectors: loads may be as wide
}

template <class T>
void down(const Problem& p, const T* x, const T* a, int64_t d, int64_t rank, float* u) {
    if constexpr (sizeof(T) == 2)
        if (!p.by_rows())
            return with_rank(rank, [&](auto ranks) {
                launch_project<ranks, false>(p, x, {a, nullptr}, aligned16(a), d, rank, 1.0f, u);
            });
    const dim3 grid(static_cast<unsigned>(p.tokens), blocks_for(rank, row_threads / 32 * 2));
    project_rows<<<grid, row_threads, 0, p.call.stream()>>>(
        x, a, p.groups(), static_cast<int>(d), static_cast<int>(rank),
        d % wide<T> == 0 && aligned16(x) && aligned16(a), u);
    p.call.launched();
}

template <class T>
void up(const Problem& p, const float* v, const T* b, int64_t d, int64_t rank, float scale, T* y) {
    if constexpr (sizeof(T) == 2)
        if (!p.by_rows())
            return with_rank(rank, [&](auto ranks) {
                launch_expand<ranks, true>(p, v, {b, nullptr}, aligned16(b), d, rank, scale, y);
            });
    // Rows a block: about a thousand loads of 16 bytes, so that there are blocks enough.
    const int64_t part = std::max<int64_t>(64, std::min<int64_t>(1024, 8192 / std::max<int64_t>(rank, 8)));
    const dim3 grid(static_cast<unsigned>(p.tokens), blocks_for(d, part));
    expand_rows<<<grid, row_threads, rank_bytes(rank), p.call.stream()>>>(
        v, b, p.groups(), static_cast<int>(d), static_cast<int>(rank), static_cast<int>(part), scale,
        rank % wide<T> == 0 && aligned16(b), y);
    p.call.launched();
}

template <class T>
void up_backward(const Problem& p, const T* dy, const float* v, const T* b, int64_t d, int64_t rank,
                 float scale, float* dv, float* db) {
    const bool rows = sizeof(T) == 4 || p.by_rows();
    if (dv && rows) {
        project_columns<<<dim3(static_cast<unsigned>(p.tokens), blocks_for(rank, 32)), row_threads, 0,
                          p.call.stream()>>>(dy, b, p.groups(), static_cast<int>(d), static_cast<int>(rank),
                                             scale, dv);
        p.call.launched();
    } else if (dv) {
        if constexpr (sizeof(T) == 2)
            with_rank(rank, [&](auto ranks) {
                launch_project<ranks, true>(p, dy, {b, nullptr}, aligned16(b), d, rank, scale, dv);
            });
    }
    if (db) outer(p, v, dy, d, rank, scale, true, db);
}

template <class T>
void down_backward(const Problem& p, const float* du, const T* x, const T* a, int64_t d, int64_t rank, T* dx,
                   float* da) {
    const bool rows = sizeof(T) == 4 || p.by_rows();
    if (dx && rows) {
        expand_columns<<<dim3(static_cast<unsigned>(p.tokens), blocks_for(d, row_threads)), row_threads,
                         rank_bytes(rank), p.call.stream()>>>(du, a, p.groups(), static_cast<int>(d),
                                                              static_cast<int>(rank), dx);
        p.call.launched();
    } else if (dx) {
        if constexpr (sizeof(T) == 2)
            with_rank(rank, [&](auto ranks) {
                launch_expand<ranks, false>(p, du, {a, nullptr}, aligned16(a), d, rank, 1.0f, dx);
            });
    }
    if (da) outer(p, du, x, d, rank, 1.0f, false, da);
}

template <class Body>
void start(const char* name, Float type, const int32_t* group_of_row, Rows rows, Body&& body) {
    run(name, [&](Call& call) {
        const Problem problem(call, group_of_row, rows);
        if (problem.tokens > 0) with_type(type, [&](auto element) { body(problem, element); });
    });
}

}  // namespace

void low_rank_down(Float type, const void* x, const void* a, const int32_t* group_of_row, Rows rows,
                   int64_t d_in, int64_t rank, float* u) {
    start("low_rank_down", type, group_of_row, rows, [&](const Problem& p, auto element) {
        using T = decltype(element);
        down(p, static_cast<const T*>(x), static_cast<const T*>(a), d_in, rank, u);
    });
}

void low_rank_up(Float type, const float* v, const void* b, const int32_t* group_of_row, Rows rows,
                 int64_t d_out, int64_t rank, float scale, void* y) {
    start("low_rank_up", type, group_of_row, rows, [&](const Problem& p, auto element) {
        using T = decltype(element);
        up(p, v, static_cast<const T*>(b), d_out, rank, scale, static_cast<T*>(y));
    });
}

void low_rank_up_backward(Float type, const void* dy, const float* v, const void* b,
                          const int32_t* group_of_row, Rows rows, int64_t d_out, int64_t rank, float scale,
                          float* dv, float* db) {
    start("low_rank_up_backward", type, group_of_row, rows, [&](const Problem& p, auto element) {
        using T = decltype(element);
        up_backward(p, static_cast<const T*>(dy), v, static_cast<const T*>(b), d_out, rank, scale, dv, db);
    });
}

void low_rank_down_backward(Float type, const float* du, const void* x, const void* a,
                            const int32_t* group_of_row, Rows rows, int64_t d_in, int64_t rank, void* dx,
                            float* da) {
    start("low_rank_down_backward", type, group_of_row, rows, [&](const Problem& p, auto element) {
        using T = decltype(element);
        down_backward(p, du, static_cast<const T*>(x), static_cast<const T*>(a), d_in, rank,
                      static_cast<T*>(dx), da);
    });
}

void low_rank_prompts(const void* x, const RowFactors* of_row, Rows rows, int64_t d_in, int64_t d_out,
                      void* y) {
    run("low_rank_rows", [&](Call& call) {
        std::vector<bool> done(static_cast<size_t>(rows.count));
        for (int32_t first = 0; first < rows.count; ++first) {
            const RowFactors& wanted = of_row[first];
            if (done[static_cast<size_t>(first)] || !wanted.a || wanted.rank <= 0) continue;
            // All rows of this rank and scale in one pass; rows of the same factors are one group.
            std::vector<const void*> a, b;
            std::vector<int32_t> group(static_cast<size_t>(rows.count), -1);
            bool aligned_a = true, aligned_b = true;
            for (int32_t row = first; row < rows.count; ++row) {
                const RowFactors& f = of_row[row];
                if (!f.a || f.rank != wanted.rank || f.scale != wanted.scale) continue;
                done[static_cast<size_t>(row)] = true;
                size_t at = 0;
                while (at < a.size() && (a[at] != f.a || b[at] != f.b)) ++at;
                if (at == a.size()) {
                    a.push_back(f.a);
                    b.push_back(f.b);
                    aligned_a = aligned_a && aligned16(f.a);
                    aligned_b = aligned_b && aligned16(f.b);
                }
                group[static_cast<size_t>(row)] = static_cast<int32_t>(at);
            }
            const Problem p(call, group.data(), rows);
            float* u = call.scratch<float>(p.tokens * wanted.rank);
            with_rank(wanted.rank, [&](auto ranks) {
                launch_project<ranks, false>(p, static_cast<const bf16*>(x), {nullptr, call.stage(a)},
                                             aligned_a, d_in, wanted.rank, 1.0f, u);
                launch_expand<ranks, false>(p, u, {nullptr, call.stage(b)}, aligned_b, d_out, wanted.rank,
                                            wanted.scale, static_cast<bf16*>(y));
            });
        }
    });
}

}  // namespace polyad::kernels::cuda
