// SPDX-License-Identifier: Apache-2.0
// The routed low-rank operator, gates and mixed factors: device against CPU reference.
#include "tests/cuda/device.h"

namespace polyad::kernels {
namespace {

struct Case {
    int64_t d_in, d_out, rank;
    std::vector<int32_t> lengths, group;
    int32_t groups;
};

const Case cases[] = {
    {64, 128, 16, {40, 0, 70}, {0, 0, 1}, 2},
    {576, 1536, 8, {100, 101, 1, 300}, {0, 1, -1, 0}, 2},  // an empty group between two of one
    {576, 192, 16, {33, 200, 64, 65}, {2, 1, 0, 2}, 3},
    {1536, 576, 64, {500}, {0}, 1},
    {256, 256, 128, {130, 20}, {0, -1}, 1},
    {256, 136, 160, {64, 64}, {0, 1}, 2},  // more ranks than one tile holds
    {100, 36, 4, {50, 30}, {1, 0}, 2},     // no whole vectors
    {63, 65, 5, {70, 20}, {0, 1}, 2},      // odd everything
    {128, 128, 1, {20, 90}, {0, 1}, 2},
    {576, 576, 32, {1, 1, 1, 1, 1, 1, 1, 1}, {3, 1, -1, 0, 3, 2, 1, 0}, 4},  // decoding
    {2048, 2048, 16, {1, 1}, {1, 0}, 2},
    {64, 64, 24, {1, 2, 1}, {0, -1, 1}, 2},
    {1024, 1024, 16, {2000, 48}, {0, 1}, 2},  // a gradient in parts
    {64, 64, 8, {30, 30}, {-1, -1}, 1},       // nobody is routed
};

struct Batch {
    explicit Batch(const std::vector<int32_t>& lengths) {
        for (const int32_t n : lengths) begin.push_back(begin.back() + n);
    }
    Rows rows() const { return {begin.data(), static_cast<int32_t>(begin.size()) - 1}; }
    int64_t tokens() const { return begin.back(); }
    std::vector<int32_t> begin{0};
};

TEST_F(CudaKernels, LowRankForwardAndBackward) {
    for (const Float type : both_types)
        for (const Case& c : cases)
            for (const int shift : {0, 1}) {
                const Batch batch(c.lengths);
                const int64_t n = batch.tokens();
                const std::string what = std::string(name_of(type)) + " " + std::to_string(c.d_in) + " -> " +
                                         std::to_string(c.d_out) + " rank " + std::to_string(c.rank) +
                                         " tokens " + std::to_string(n) + " shift " + std::to_string(shift);
                Array x(type, n * c.d_in, shift), a(type, c.groups * c.rank * c.d_in, shift);
                Array b(type, c.groups * c.d_out * c.rank, shift), y(type, n * c.d_out, shift);
                Array u(Float::f32, n * c.rank), v(Float::f32, n * c.rank, shift), dv(Float::f32, n * c.rank);
                Array dy(type, n * c.d_out, shift), dx(type, n * c.d_in, shift);
                Array da(Float::f32, a.n()), db(Float::f32, b.n());
                x.random(random), a.random(random, 0.1), b.random(random), y.random(random), v.random(random);
                dy.random(random), dx.random(random), da.random(random), db.random(random);
                on_both(what, [&](const OpTable& op, Side s) {
                    const int32_t* group = c.group.data();
                    op.low_rank_down(type, x.at(s), a.at(s), group, batch.rows(), c.d_in, c.rank,
                                     u.floats(s));
                    op.low_rank_up(type, v.floats(s), b.at(s), group, batch.rows(), c.d_out, c.rank, 0.5f,
                                   y.at(s));
                    op.low_rank_up_backward(type, dy.at(s), v.floats(s), b.at(s), group, batch.rows(),
                                            c.d_out, c.rank, 0.5f, dv.floats(s), db.floats(s));
                    op.low_rank_down_backward(type, v.floats(s), x.at(s), a.at(s), group, batch.rows(),
                                              c.d_in, c.rank, dx.at(s), da.floats(s));
                });
                const double tolerance = tolerance_of(type);
                u.expect_same(type == Float::f32 ? 2e-5 : 1e-4, "u, " + what);
                y.expect_same(tolerance, "y, " + what);
                dv.expect_same(type == Float::f32 ? 2e-5 : 1e-4, "dv, " + what);
                db.expect_same(tolerance, "db, " + what);
                dx.expect_same(tolerance, "dx, " + what);
                da.expect_same(tolerance, "da, " + what);
            }
}

TEST_F(CudaKernels, LowRankOfEachRowsOwnFactors) {
    struct Rows3 {
        std::vector<int32_t> lengths;
        int64_t d_in, d_out;
    };
    for (const Float type : both_types)
        for (const Rows3& c : {Rows3{{1, 1, 1, 1, 1}, 576, 1536}, Rows3{{1, 2, 0, 1, 3}, 63, 65},
                               Rows3{{1, 1, 1, 1, 1}, 4096, 4096}, Rows3{{70, 40, 30, 100, 65}, 576, 192},
                               Rows3{{1, 1, 1, 1, 1}, 128, 24}}) {
            const Batch batch(c.lengths);
            const int64_t n = batch.tokens();
            const int32_t ranks[] = {16, 5, 0, 64, 16};
            const float scales[] = {1, 0.5f, 1, 2, 1};
            Array x(type, n * c.d_in), y(type, n * c.d_out), a(type, 5 * 64 * c.d_in),
                b(type, 5 * 64 * c.d_out);
            x.random(random), y.random(random), a.random(random, 0.1), b.random(random);
            on_both("low_rank_rows", [&](const OpTable& op, Side s) {
                std::vector<RowFactors> factors;
                for (int i = 0; i < 5; ++i) {
                    const int at = i == 4 ? 0 : i;  // the last row uses the first's
                    factors.push_back({ranks[i] ? a.at(s, at * 64 * c.d_in) : nullptr,
                                       ranks[i] ? b.at(s, at * 64 * c.d_out) : nullptr, ranks[i], scales[i]});
                }
                op.low_rank_rows(type, x.at(s), factors.data(), batch.rows(), c.d_in, c.d_out, y.at(s));
            });
            y.expect_same(tolerance_of(type), std::string("low_rank_rows ") + name_of(type) + " " +
                                                  std::to_string(c.d_in) + " tokens " + std::to_string(n));
        }
}

// A decoding step's pairs: the recording is made for a bound, the twin brings each step's own, or none.
TEST_F(CudaKernels, ReplaysPairsThatChange) {
    const CudaLibrary& library = *device_library();
    const int32_t rows = 3, most = 16;
    const int64_t d_in = 576, d_out = 1536;
    const std::vector<int32_t> begin{0, 1, 2, 3};
    for (const Float type : both_types) {
        Array x(type, rows * d_in), y(type, rows * d_out), a(type, 2 * most * d_in),
            b(type, 2 * most * d_out);
        x.random(random), y.random(random), a.random(random, 0.1), b.random(random);
        struct Pair {
            int which, rank;
        };
        const auto pairs = [&](Side s, const std::vector<Pair>& of) {
            std::vector<RowFactors> out;
            for (const Pair& p : of)
                out.push_back({p.rank ? a.at(s, p.which * most * d_in) : nullptr,
                               p.rank ? b.at(s, p.which * most * d_out) : nullptr, p.rank, 0.5f});
            return out;
        };
        const std::vector<RowFactors> bound(rows, {x.at(Side::device), x.at(Side::device), most, 0.0f});
        const size_t bytes = bound.size() * sizeof(RowFactors);
        void* const twin = library.allocate(bytes);
        const auto none = pairs(Side::device, {{0, 0}, {0, 0}, {0, 0}});
        library.copy(twin, none.data(), bytes);
        library.bind(bound.data(), bytes, twin);
        const auto step = [&] {
            library.ops->low_rank_rows(type, x.at(Side::device), bound.data(), {begin.data(), rows}, d_in,
                                       d_out, y.at(Side::device));
        };
        step();
        y.expect_same(0, "rows without pairs");
        library.graph_begin();
        step();
        void* const graph = library.graph_end();
        library.unbind(bound.data());
        ASSERT_NE(graph, nullptr) << library.take_error();
        for (const std::vector<Pair>& now :
             {std::vector<Pair>{{0, 16}, {1, 5}, {0, 0}}, std::vector<Pair>{{1, 16}, {1, 16}, {0, 8}},
              std::vector<Pair>{{0, 0}, {0, 1}, {1, 0}}}) {
            const auto there = pairs(Side::device, now), here = pairs(Side::host, now);
            library.copy(twin, there.data(), bytes);
            library.graph_launch(graph);
            ops_for("portable")
                ->low_rank_rows(type, x.at(Side::host), here.data(), {begin.data(), rows}, d_in, d_out,
                                y.at(Side::host));
            y.expect_same(tolerance_of(type), std::string("replayed pairs, ") + name_of(type));
            y.push();  // roundings do not add up
        }
        library.graph_release(graph);
        library.release(twin);
    }
    EXPECT_EQ(library.take_error(), nullptr);
}

TEST_F(CudaKernels, Gates) {
    struct Shape {
        GateKind kind;
        int64_t in, out, width;
    };
    const Batch batch({3, 0, 70, 1});
    for (const Shape& c : {Shape{GateKind::diagonal, 16, 16, 16}, Shape{GateKind::diagonal, 24, 24, 3},
                           Shape{GateKind::full, 4, 6, 24}, Shape{GateKind::diagonal, 8, 8, 1}})
        for (const int per_token : {0, 1}) {
            const GateShape shape{c.kind, per_token, c.in, c.out, c.width};
            const int64_t n = batch.tokens(), lines = per_token ? n : batch.rows().count;
            Array gate(Float::f32, lines * c.width), u(Float::f32, n * c.in), v(Float::f32, n * c.out);
            Array dv(Float::f32, n * c.out), du(Float::f32, n * c.in), dgate(Float::f32, lines * c.width);
            gate.random(random), u.random(random), dv.random(random), dgate.random(random);
            on_both("gate", [&](const OpTable& op, Side s) {
                op.gate(shape, batch.rows(), gate.floats(s), u.floats(s), v.floats(s));
                op.gate_backward(shape, batch.rows(), gate.floats(s), u.floats(s), dv.floats(s), du.floats(s),
                                 dgate.floats(s));
            });
            v.expect_same(1e-5, "gate");
            du.expect_same(1e-5, "gate_backward du");
            dgate.expect_same(1e-5, "gate_backward dgate");
        }
}

// Both products and the gate in one: against the CPU's three steps.
TEST_F(CudaKernels, LowRankInOne) {
    struct Case {
        int64_t d_in, d_out;
        GateKind kind;
        int64_t in, out, width;  ///< ranks of u and v, entries of a gate's line
        std::vector<int32_t> lengths, group;
        int32_t groups;
    };
    const Case all[] = {
        {576, 1536, GateKind::none, 16, 16, 0, {1, 1, 1, 1}, {0, 0, 0, 0}, 1},
        {576, 192, GateKind::diagonal, 32, 32, 4, {1, 1, 1, 1, 1}, {0, 0, -1, 0, 0}, 1},
        {576, 1536, GateKind::diagonal, 64, 64, 64, {1}, {0}, 1},
        {4096, 4096, GateKind::diagonal, 64, 64, 8, {1, 1}, {1, 0}, 2},
        {256, 136, GateKind::full, 8, 12, 96, {1, 0, 3, 1}, {1, 0, 0, 1}, 2},
        {576, 576, GateKind::full, 16, 16, 256, {1, 1, 1}, {0, 0, 0}, 1},
        {63, 65, GateKind::full, 5, 3, 15, {2, 1, 4}, {0, -1, 1}, 2},  // no whole vectors
        {63, 65, GateKind::diagonal, 6, 6, 2, {1, 1}, {0, 0}, 1},
        {128, 24, GateKind::diagonal, 24, 24, 3, {30, 34}, {0, 0}, 1},  // as many tokens as are sent here
        {64, 48, GateKind::none, 1, 1, 0, {1, 1}, {-1, 0}, 1},
        {64, 64, GateKind::full, 300, 260, 78000, {1, 1}, {0, 0}, 1},  // more ranks than threads
        {128, 64, GateKind::diagonal, 4096, 4096, 4096, {1}, {0}, 1},  // the most there may be
        {64, 64, GateKind::diagonal, 8, 8, 8, {1, 1}, {-1, -1}, 1},    // nobody is routed
    };
    for (const Float type : both_types)
        for (const Case& c : all)
            for (const int per_token : {0, 1})
                for (const int shift : {0, 1}) {
                    const Batch batch(c.lengths);
                    const int64_t n = batch.tokens();
                    const GateShape shape{c.kind, per_token, c.in, c.out, c.width};
                    const bool gated = c.kind != GateKind::none;
                    std::string what = name_of(type);
                    for (const int64_t number : {c.d_in, c.d_out, c.in, c.out, static_cast<int64_t>(c.kind),
                                                 int64_t{per_token}, int64_t{shift}})
                        what += " " + std::to_string(number);
                    Array x(type, n * c.d_in, shift), a(type, c.groups * c.in * c.d_in, shift);
                    Array b(type, c.groups * c.d_out * c.out, shift), y(type, n * c.d_out, shift);
                    Array gate(Float::f32, gated ? (per_token ? n : batch.rows().count) * c.width : 1);
                    Array u(Float::f32, n * c.in), v(Float::f32, n * c.out);
                    x.random(random), a.random(random, 0.1), b.random(random), y.random(random);
                    gate.random(random);
                    const int32_t* group = c.group.data();
                    const OpTable& host = *ops_for("portable");
                    const Side h = Side::host, d = Side::device;
                    host.low_rank_down(type, x.at(h), a.at(h), group, batch.rows(), c.d_in, c.in,
                                       u.floats(h));
                    if (gated) host.gate(shape, batch.rows(), gate.floats(h), u.floats(h), v.floats(h));
                    host.low_rank_up(type, gated ? v.floats(h) : u.floats(h), b.at(h), group, batch.rows(),
                                     c.d_out, c.out, 0.5f, y.at(h));
                    device_library()->ops->low_rank(type, x.at(d), a.at(d), b.at(d), group, batch.rows(),
                                                    c.d_in, c.d_out, shape, gated ? gate.floats(d) : nullptr,
                                                    0.5f, y.at(d));
                    const char* error = device_library()->take_error();
                    ASSERT_EQ(error, nullptr) << what << ": " << error;
                    y.expect_same(type == Float::f32 ? 5e-5 : tolerance_of(type), "low_rank, " + what);
                }
    const GateShape wide{GateKind::none, 0, low_rank_ranks + 1, low_rank_ranks + 1, 0};
    const int32_t begin[] = {0, 1}, group[] = {0};
    Array x(Float::f32, 8);
    void* const memory = x.at(Side::device);
    device_library()->ops->low_rank(Float::f32, memory, memory, memory, group, {begin, 1}, 8, 8, wide,
                                    nullptr, 1, memory);
    const char* error = device_library()->take_error();
    ASSERT_NE(error, nullptr);
    EXPECT_NE(std::string(error).find("1 to 4096 ranks"), std::string::npos) << error;
}

TEST_F(CudaKernels, MixedFactors) {
    for (const Float type : both_types)
        for (const bool chosen : {false, true})
            for (const int split_rows : {0, 1})
                for (const int64_t splits : {1, 4}) {
                    const int64_t groups = 11, skills = 9, rows = 8, columns = 60;
                    std::vector<int32_t> skill;
                    for (int64_t i = 0; i < groups * 3; ++i)
                        skill.push_back(static_cast<int32_t>((i * 5 + i / 3) % (skills - 1)));
                    const FactorMix mix{groups,
                                        skills,
                                        rows,
                                        columns,
                                        chosen ? skill.data() : nullptr,
                                        chosen ? 3 : skills,
                                        splits,
                                        split_rows,
                                        rows * (columns + 4),
                                        columns + 4};
                    Array bank(Float::f32, skills * rows * columns),
                        w(Float::f32, groups * splits * mix.chosen);
                    Array out(type, groups * mix.out_group), dout(Float::f32, groups * mix.out_group);
                    Array dbank(Float::f32, bank.n()), dw(Float::f32, w.n());
                    bank.random(random), w.random(random), out.random(random), dout.random(random);
                    dbank.random(random), dw.random(random);
                    on_both("mix_factors", [&](const OpTable& op, Side s) {
                        op.mix_factors(type, mix, bank.floats(s), w.floats(s), 0, out.at(s));
                        op.mix_factors(type, mix, bank.floats(s), w.floats(s), 1, out.at(s));
                        op.mix_factors_backward(mix, bank.floats(s), w.floats(s), dout.floats(s),
                                                dbank.floats(s), dw.floats(s));
                    });
                    out.expect_same(tolerance_of(type), "mix_factors");
                    dbank.expect_same(2e-5, "mix_factors_backward bank");
                    dw.expect_same(2e-5, "mix_factors_backward weights");
                }
}

TEST_F(CudaKernels, NearestCentroids) {
    const int64_t n = 300, clusters = 7, width = 37;
    for (const int spherical : {0, 1}) {
        Array points(Float::f32, n * width), centroids(Float::f32, clusters * width);
        points.random(random), centroids.random(random);
        for (int64_t i = 0; i < width; ++i)
            centroids.set(4 * width + i, centroids.get(2 * width + i));  // a tie
        centroids.push();
        Ints member(n);
        device_library()->more->nearest(points.floats(Side::device), centroids.floats(Side::device), n,
                                        clusters, width, spherical, member.device);
        const std::vector<int32_t> got = member.values();
        for (int64_t i = 0; i < n; ++i) {
            double best = -1e300;
            int wanted = 0;
            for (int k = 0; k < clusters; ++k) {
                double score = 0;
                for (int64_t c = 0; c < width; ++c) {
                    const double p = points.get(i * width + c), q = centroids.get(k * width + c);
                    score += spherical ? p * q : -(p - q) * (p - q);
                }
                if (score > best) best = score, wanted = k;
            }
            EXPECT_EQ(got[static_cast<size_t>(i)], wanted) << i;
        }
    }
}

}  // namespace
}  // namespace polyad::kernels
