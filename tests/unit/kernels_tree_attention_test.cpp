// SPDX-License-Identifier: Apache-2.0
// Attention over rows that share beginnings against the same rows laid out whole.
#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"
#include "kernels/op_table.h"
#include "tests/unit/kernel_check.h"

namespace polyad::kernels {
namespace {

struct Tree {
    std::vector<int32_t> parent, count;
    int32_t heads, heads_kv, head_dim, window = 0;
};

const Tree trees[] = {
    {{-1, 0, 0}, {10, 7, 12}, 4, 4, 16},
    {{-1, 0, 1, 1, 0, -1, 5}, {21, 40, 3, 70, 1, 5, 90}, 9, 3, 64},
    {{-1, 0, 1, 2, 3, 3, 1}, {1, 1, 2, 1, 5, 9, 3}, 6, 2, 64},
    {{-1, -1, 0, 1, 0}, {33, 2, 30, 31, 0}, 2, 1, 20},
    {{-1, 0, 0}, {50, 40, 60}, 6, 2, 64, 24},
    {{-1, -1}, {20, 30}, 3, 3, 16},
};

class Rows {
  public:
    Rows(const Tree& tree, Float type, Generator& random)
        : tree_(tree),
          type_(type),
          width_(tree.heads * tree.head_dim),
          kv_width_(tree.heads_kv * tree.head_dim) {
        for (size_t b = 0; b < tree.count.size(); ++b) {
            const int32_t before = tree.parent[b] < 0 ? 0 : keys_[static_cast<size_t>(tree.parent[b])];
            keys_.push_back(before + tree.count[b]);
            begin_.push_back(begin_.back() + tree.count[b]);
        }
        q = Buffer::random(type, begin_.back() * width_, random, 1.5);
        d_o = Buffer::random(type, q.n(), random);
        k = Buffer::random(type, begin_.back() * kv_width_, random, 1.5);
        v = Buffer::random(type, k.n(), random);
        o = dq = Buffer(type, q.n());
        dk = dv = Buffer(type, k.n());
        lse = Buffer(Float::f32, begin_.back() * tree.heads);
    }

    Attention args() {
        for (size_t b = 0; b < tree_.count.size(); ++b) {
            k_row_.push_back(k.at(begin_[b] * kv_width_));
            v_row_.push_back(v.at(begin_[b] * kv_width_));
            dk_row.push_back(dk.at(begin_[b] * kv_width_));
            dv_row.push_back(dv.at(begin_[b] * kv_width_));
        }
        return shape(static_cast<int32_t>(tree_.count.size()), begin_.data(), keys_.data(), k_row_.data(),
                     v_row_.data());
    }

    /// Every row with its whole line, through the plain kernels; what its own queries and keys get.
    void whole_rows(const OpTable& op) {
        eo.assign(static_cast<size_t>(q.n()), 0);
        edq = eo;
        edk.assign(static_cast<size_t>(k.n()), 0);
        edv = edk;
        for (size_t b = 0; b < tree_.count.size(); ++b) {
            std::vector<int64_t> token;  // of the batch, for each of the line's
            for (int32_t r = static_cast<int32_t>(b); r >= 0; r = tree_.parent[static_cast<size_t>(r)]) {
                std::vector<int64_t> own;
                for (int64_t t = begin_[static_cast<size_t>(r)]; t < begin_[static_cast<size_t>(r) + 1]; ++t)
                    own.push_back(t);
                token.insert(token.begin(), own.begin(), own.end());
            }
            const auto n = static_cast<int64_t>(token.size());
            if (n == 0) continue;
            const Buffer line_q = gather(q, token, width_), line_k = gather(k, token, kv_width_);
            const Buffer line_v = gather(v, token, kv_width_);
            Buffer line_do = gather(d_o, token, width_), line_o(type_, n * width_), line_dq = line_o;
            Buffer line_dk(type_, n * kv_width_), line_dv = line_dk, line_lse(Float::f32, n * tree_.heads);
            for (int64_t i = 0; i < (n - tree_.count[b]) * width_; ++i)
                line_do.set(i, 0);  // the parents' own
            const int32_t ends[] = {0, static_cast<int32_t>(n)};
            const void *k_row = line_k.data(), *v_row = line_v.data();
            void *dk_out = line_dk.data(), *dv_out = line_dv.data();
            const Attention a = shape(1, ends, ends + 1, &k_row, &v_row);
            op.attention(a, line_q.data(), line_o.data(), line_lse.floats());
            op.attention_backward(a, line_q.data(), line_o.data(), line_do.data(), line_lse.floats(),
                                  line_dq.data(), &dk_out, &dv_out);
            for (int64_t i = 0; i < n; ++i) {
                for (int64_t c = 0; c < kv_width_; ++c) {
                    edk[static_cast<size_t>(token[static_cast<size_t>(i)] * kv_width_ + c)] +=
                        line_dk.get(i * kv_width_ + c);
                    edv[static_cast<size_t>(token[static_cast<size_t>(i)] * kv_width_ + c)] +=
                        line_dv.get(i * kv_width_ + c);
                }
                if (i < n - tree_.count[b]) continue;
                for (int64_t c = 0; c < width_; ++c) {
                    eo[static_cast<size_t>(token[static_cast<size_t>(i)] * width_ + c)] =
                        line_o.get(i * width_ + c);
                    edq[static_cast<size_t>(token[static_cast<size_t>(i)] * width_ + c)] =
                        line_dq.get(i * width_ + c);
                }
            }
        }
    }

    Buffer q{Float::f32, 0}, k = q, v = q, d_o = q, o = q, dq = q, dk = q, dv = q, lse = q;
    std::vector<void*> dk_row, dv_row;
    std::vector<double> eo, edq, edk, edv;

  private:
    Attention shape(int32_t rows, const int32_t* begin, const int32_t* keys, const void* const* k_row,
                    const void* const* v_row) const {
        return {type_,
                rows,
                tree_.heads,
                tree_.heads_kv,
                tree_.head_dim,
                begin,
                keys,
                k_row,
                v_row,
                kv_width_,
                1 / std::sqrt(static_cast<float>(tree_.head_dim)),
                tree_.window,
                1,
                nullptr,
                0,
                0,
                1};
    }
    Buffer gather(const Buffer& from, const std::vector<int64_t>& token, int64_t width) const {
        Buffer out(type_, static_cast<int64_t>(token.size()) * width);
        for (size_t i = 0; i < token.size(); ++i)
            for (int64_t c = 0; c < width; ++c)
                out.set(static_cast<int64_t>(i) * width + c, from.get(token[i] * width + c));
        return out;
    }

    const Tree& tree_;
    Float type_;
    int64_t width_, kv_width_;
    std::vector<int32_t> begin_{0}, keys_;
    std::vector<const void*> k_row_, v_row_;
};

class TreeAttention : public testing::TestWithParam<const OpTable*> {};
INSTANTIATE_TEST_SUITE_P(Sets, TreeAttention, testing::ValuesIn(available_sets()),
                         [](const auto& info) { return std::string(info.param->isa); });

TEST_P(TreeAttention, EqualsWholeRows) {
    const OpTable& op = *GetParam();
    Generator random{5};
    for (const Float type : {Float::f32, Float::bf16})
        for (const Tree& tree : trees) {
            SCOPED_TRACE(testing::Message() << name_of(type) << " tree " << &tree - trees);
            Rows rows(tree, type, random);
            rows.whole_rows(op);
            const Attention args = rows.args();
            op.tree_attention(args, tree.parent.data(), rows.q.data(), rows.o.data(), rows.lse.floats());
            expect_near(rows.o, rows.eo, tolerance_of(type), "o");
            op.tree_attention_backward(args, tree.parent.data(), rows.q.data(), rows.o.data(),
                                       rows.d_o.data(), rows.lse.floats(), rows.dq.data(), rows.dk_row.data(),
                                       rows.dv_row.data());
            const double tolerance = type == Float::f32 ? 1e-5 : 2e-2;
            expect_near(rows.dq, rows.edq, tolerance, "dq");
            expect_near(rows.dk, rows.edk, tolerance, "dk");
            expect_near(rows.dv, rows.edv, tolerance, "dv");
        }
}

}  // namespace
}  // namespace polyad::kernels
