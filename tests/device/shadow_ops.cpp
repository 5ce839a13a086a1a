// SPDX-License-Identifier: Apache-2.0
#include "device/shadow_ops.h"

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace polyad {
namespace {

using namespace kernels;

template <class T>
T* host(T* address) {
    return static_cast<T*>(shadow_host(address));
}

/// Pointers to device memory, kept in host memory.
template <class Pointer>
std::vector<Pointer> hosts(const Pointer* list, int64_t n) {
    std::vector<Pointer> out;
    for (int64_t i = 0; i < n; ++i) out.push_back(static_cast<Pointer>(shadow_host(list[i])));
    return out;
}

const OpTable& cpu() {
    return kernels::ops();
}

/// The pointers of an attention call, seen from the host.
struct HostAttention {
    std::vector<const void*> k, v, page;
    Attention args;
    explicit HostAttention(const Attention& a) : args(a) {
        POLYAD_CHECK(!a.bias);
        if (a.page_tokens > 0) {
            int64_t pages = 0;
            for (int32_t b = 0; b < a.rows; ++b)
                pages = std::max<int64_t>(
                    pages, a.page_begin[b] + (a.key_count[b] + a.page_tokens - 1) / a.page_tokens);
            page = hosts(a.page, pages);
            args.page = page.data();
            return;
        }
        k = hosts(a.k_row, a.rows);
        v = hosts(a.v_row, a.rows);
        args.k_row = k.data();
        args.v_row = v.data();
    }
};

OpTable make() {
    OpTable t{};
    t.isa = "shadow";
    t.dequantise = [](Quant type, const void* src, float* dst, int64_t n) {
        cpu().dequantise(type, host(src), host(dst), n);
    };
    t.dequantise_bf16 = [](Quant type, const void* src, uint16_t* dst, int64_t n) {
        cpu().dequantise_bf16(type, host(src), host(dst), n);
    };
    t.multiply_packed = [](Quant quant, const void* w, const int32_t* source_row, Float type, const void* x,
                           int64_t n, int64_t rows, int64_t columns, void* y) {
        POLYAD_CHECK(!source_row);  // rows of matrices on a device are in order
        cpu().multiply_packed(quant, host(w), nullptr, type, host(x), n, rows, columns, host(y));
    };
    t.to_bf16 = [](const float* src, uint16_t* dst, int64_t n) { cpu().to_bf16(host(src), host(dst), n); };
    t.from_bf16 = [](const uint16_t* src, float* dst, int64_t n) {
        cpu().from_bf16(host(src), host(dst), n);
    };
    t.rms_norm = [](Float type, const void* x, const float* w, float eps, void* y, float* rstd, int64_t n,
                    int64_t width) {
        cpu().rms_norm(type, host(x), host(w), eps, host(y), host(rstd), n, width);
    };
    t.rms_norm_backward = [](Float type, const void* dy, const void* x, const float* w, const float* rstd,
                             void* dx, float* dw, int add, int64_t n, int64_t width) {
        cpu().rms_norm_backward(type, host(dy), host(x), host(w), host(rstd), host(dx), host(dw), add, n,
                                width);
    };
    t.add_rms_norm = [](Float type, void* residual, const void* delta, const float* w, float eps, void* y,
                        float* rstd, int64_t n, int64_t width) {
        cpu().add_rms_norm(type, host(residual), host(delta), host(w), eps, host(y), host(rstd), n, width);
    };
    t.rope = [](Float type, void* x, int64_t stride, const float* cos, const float* sin,
                const int32_t* position, int64_t n, int32_t heads, int32_t head_dim, int32_t rotary_dim,
                int inverse) {
        cpu().rope(type, host(x), stride, host(cos), host(sin), position, n, heads, head_dim, rotary_dim,
                   inverse);
    };
    t.swiglu = [](Float type, const void* gate, const void* up, void* y, int64_t n) {
        cpu().swiglu(type, host(gate), host(up), host(y), n);
    };
    t.swiglu_backward = [](Float type, const void* dy, const void* gate, const void* up, void* dgate,
                           void* dup, int64_t n) {
        cpu().swiglu_backward(type, host(dy), host(gate), host(up), host(dgate), host(dup), n);
    };
    t.add = [](Float type, void* y, const void* x, int64_t n) { cpu().add(type, host(y), host(x), n); };
    t.append = [](Float type, const void* fresh, Rows rows, const CacheRows& to, const int32_t* past,
                  int64_t width) {
        CacheRows seen = to;
        std::vector<void*> at;
        if (to.page_tokens > 0) {
            int64_t pages = 0;
            for (int32_t b = 0; b < rows.count; ++b)
                pages = std::max<int64_t>(pages, to.page_begin[b] + (past[b] + rows.begin[b + 1] -
                                                                     rows.begin[b] + to.page_tokens - 1) /
                                                                        to.page_tokens);
            at = hosts(to.page, pages);
            seen.page = at.data();
        } else {
            at = hosts(to.row, rows.count);
            seen.row = at.data();
        }
        cpu().append(type, host(fresh), rows, seen, past, width);
    };
    t.attention = [](const Attention& a, const void* q, void* o, float* lse) {
        cpu().attention(HostAttention(a).args, host(q), host(o), host(lse));
    };
    t.attention_backward = [](const Attention& a, const void* q, const void* o, const void* d_o,
                              const float* lse, void* dq, void* const* dk_row, void* const* dv_row) {
        cpu().attention_backward(HostAttention(a).args, host(q), host(o), host(d_o), host(lse), host(dq),
                                 hosts(dk_row, a.rows).data(), hosts(dv_row, a.rows).data());
    };
    t.low_rank_down = [](Float type, const void* x, const void* a, const int32_t* group, Rows rows,
                         int64_t d_in, int64_t rank, float* u) {
        cpu().low_rank_down(type, host(x), host(a), group, rows, d_in, rank, host(u));
    };
    t.low_rank_up = [](Float type, const float* v, const void* b, const int32_t* group, Rows rows,
                       int64_t d_out, int64_t rank, float scale, void* y) {
        cpu().low_rank_up(type, host(v), host(b), group, rows, d_out, rank, scale, host(y));
    };
    t.low_rank_rows = [](Float type, const void* x, const RowFactors* of_row, Rows rows, int64_t d_in,
                         int64_t d_out, void* y) {
        std::vector<RowFactors> seen(of_row, of_row + rows.count);
        for (RowFactors& one : seen) {
            one.a = host(one.a);
            one.b = host(one.b);
        }
        cpu().low_rank_rows(type, host(x), seen.data(), rows, d_in, d_out, host(y));
    };
    t.low_rank_up_backward = [](Float type, const void* dy, const float* v, const void* b,
                                const int32_t* group, Rows rows, int64_t d_out, int64_t rank, float scale,
                                float* dv, float* db) {
        cpu().low_rank_up_backward(type, host(dy), host(v), host(b), group, rows, d_out, rank, scale,
                                   host(dv), host(db));
    };
    t.low_rank_down_backward = [](Float type, const float* du, const void* x, const void* a,
                                  const int32_t* group, Rows rows, int64_t d_in, int64_t rank, void* dx,
                                  float* da) {
        cpu().low_rank_down_backward(type, host(du), host(x), host(a), group, rows, d_in, rank, host(dx),
                                     host(da));
    };
    t.gate = [](const GateShape& shape, Rows rows, const float* gate, const float* u, float* v) {
        cpu().gate(shape, rows, host(gate), host(u), host(v));
    };
    t.gate_backward = [](const GateShape& shape, Rows rows, const float* gate, const float* u,
                         const float* dv, float* du, float* dgate) {
        cpu().gate_backward(shape, rows, host(gate), host(u), host(dv), host(du), host(dgate));
    };
    t.cross_entropy = [](float* logits, const int32_t* target, float eps, float* nll, int gradient, int64_t n,
                         int64_t vocab) {
        cpu().cross_entropy(host(logits), target, eps, host(nll), gradient, n, vocab);
    };
    t.adamw = [](float* p, const float* g, float* m, float* v, int64_t n, float lr, float beta1, float beta2,
                 float eps, float decay, float bias1, float bias2, float scale) {
        cpu().adamw(host(p), host(g), host(m), host(v), n, lr, beta1, beta2, eps, decay, bias1, bias2, scale);
    };
    t.sum_squares = [](const float* x, int64_t n) { return cpu().sum_squares(host(x), n); };
    return t;
}

}  // namespace

const OpTable& shadow_ops() {
    static const OpTable table = make();
    return table;
}

}  // namespace polyad
