// SPDX-License-Identifier: Apache-2.0
#include "device/shadow_ops.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "base/error.h"
#include "device/shadow_recorder.h"

namespace polyad {
namespace {

using namespace kernels;

std::mutex failure_mutex;
std::string failure;
thread_local std::string error, shown_error;

/// True when the kernel is not to run.
bool fails() {
    const std::lock_guard lock(failure_mutex);
    if (failure.empty()) return false;
    leave_shadow_error(failure);
    return true;
}

template <class T>
T* host(T* address) {
    return static_cast<T*>(shadow_host(address));
}

/// Addresses of device memory in an array.
template <class Pointer>
std::vector<Pointer> hosts(const std::vector<Pointer>& list) {
    std::vector<Pointer> out;
    for (const Pointer p : list) out.push_back(static_cast<Pointer>(shadow_host_read(p)));
    return out;
}

const OpTable& cpu() {
    return kernels::ops();
}

/// Rows of a batch, as the device has them.
struct ShadowRows {
    ShadowArray<int32_t> begin;
    int32_t count;
    explicit ShadowRows(Rows rows) : begin(rows.begin, rows.count + 1), count(rows.count) {}
    int64_t tokens() const { return begin.at_launch().back(); }
};

/// A row's pages in an array of all rows' pages: how many entries a launch may read.
int64_t page_entries(int32_t rows, int32_t page_tokens, const int32_t* page_begin,
                     const std::vector<int32_t>& tokens) {
    int64_t pages = 0;
    for (int32_t b = 0; b < rows; ++b)
        pages = std::max<int64_t>(pages, page_begin[b] + (tokens[b] + page_tokens - 1) / page_tokens);
    return pages;
}

/// Their addresses on the host; entries behind a row's last page are not read.
template <class Pointer>
std::vector<Pointer> host_pages(const std::vector<Pointer>& list, int32_t page_tokens,
                                const std::vector<int32_t>& page_begin, const std::vector<int32_t>& tokens) {
    std::vector<Pointer> out(list.size());
    for (size_t b = 0; b < tokens.size(); ++b)
        for (int32_t p = 0; p * page_tokens < tokens[b]; ++p) {
            const auto at = static_cast<size_t>(page_begin[b] + p);
            out.at(at) = static_cast<Pointer>(shadow_host_read(list.at(at)));
        }
    return out;
}

/// What an attention call reads, and the call with it.
struct ShadowAttention {
    Attention args;
    ShadowArray<int32_t> query_begin, key_count, page_begin;
    ShadowArray<const void*> k_row, v_row, page;

    explicit ShadowAttention(const Attention& a)
        : args(a),
          query_begin(a.query_begin, a.rows + 1),
          key_count(a.key_count, a.rows),
          page_begin(a.page_begin, paged(a) ? a.rows : 0),
          k_row(a.k_row, paged(a) ? 0 : a.rows),
          v_row(a.v_row, paged(a) ? 0 : a.rows),
          page(a.page,
               paged(a) ? page_entries(a.rows, a.page_tokens, a.page_begin, key_count.at_launch()) : 0) {
        POLYAD_CHECK(!a.bias);
    }
    static bool paged(const Attention& a) { return a.page_tokens > 0; }

    template <class Body>
    void with(Body&& body) const {
        const auto queries = query_begin.now(), keys = key_count.now(), begin = page_begin.now();
        for (size_t b = 0; b < keys.size(); ++b) POLYAD_CHECK(keys[b] <= key_count.at_launch()[b]);
        const auto k = hosts(k_row.now()), v = hosts(v_row.now());
        const std::vector<const void*> pages =
            paged(args) ? host_pages(page.now(), args.page_tokens, begin, keys) : std::vector<const void*>();
        Attention a = args;
        a.query_begin = queries.data();
        a.key_count = keys.data();
        a.page_begin = begin.data();
        a.k_row = k.data();
        a.v_row = v.data();
        a.page = pages.data();
        body(a);
    }
};

void append(Float type, const void* fresh, Rows rows, const CacheRows& to, const int32_t* past,
            int64_t width) {
    const ShadowRows of(rows);
    const ShadowArray<int32_t> lengths(past, rows.count);
    std::vector<int32_t> all = lengths.at_launch();
    for (int32_t b = 0; b < rows.count; ++b) all[b] += rows.begin[b + 1] - rows.begin[b];
    const bool paged = to.page_tokens > 0;
    const ShadowArray<void*> row(to.row, paged ? 0 : rows.count),
        page(to.page, paged ? page_entries(rows.count, to.page_tokens, to.page_begin, all) : 0);
    const ShadowArray<int32_t> page_begin(to.page_begin, paged ? rows.count : 0);
    shadow_run([=] {
        const auto begin = of.begin.now(), before = lengths.now(), first = page_begin.now();
        for (size_t b = 0; b < before.size(); ++b) POLYAD_CHECK(before[b] <= lengths.at_launch()[b]);
        const auto where = hosts(row.now());
        std::vector<int32_t> after = before;
        for (size_t b = 0; b < after.size(); ++b) after[b] += begin[b + 1] - begin[b];
        const std::vector<void*> pages =
            paged ? host_pages(page.now(), to.page_tokens, first, after) : std::vector<void*>();
        const CacheRows seen{where.data(), to.page_tokens, first.data(), pages.data(), to.page_offset};
        cpu().append(type, host(fresh), {begin.data(), of.count}, seen, before.data(), width);
    });
}

void low_rank_rows(Float type, const void* x, const RowFactors* of_row, Rows rows, int64_t d_in,
                   int64_t d_out, void* y) {
    const ShadowRows of(rows);
    const ShadowArray<RowFactors> factors(of_row, rows.count);
    shadow_run([=] {
        int32_t most = 0;
        for (const RowFactors& one : factors.at_launch())
            if (one.a) most = std::max(most, one.rank);
        auto seen = factors.now();
        for (RowFactors& one : seen) {
            one.a = shadow_host_read(one.a);
            one.b = shadow_host_read(one.b);
            POLYAD_CHECK(!one.a || one.rank <= most);
        }
        cpu().low_rank_rows(type, host(x), seen.data(), {of.begin.now().data(), of.count}, d_in, d_out,
                            host(y));
    });
}

OpTable make() {
    OpTable t{};
    t.isa = "shadow";
    t.upload = [](void* to, const void* from, int64_t bytes) {
        shadow_refuse("a copy from host memory");
        POLYAD_CHECK(reinterpret_cast<uintptr_t>(to) % 16 == 0);
        shadow_note([] {});
        std::memcpy(host(to), from, static_cast<size_t>(bytes));
    };
    t.dequantise = [](Quant type, const void* src, float* dst, int64_t n) {
        shadow_run([=] { cpu().dequantise(type, host(src), host(dst), n); });
    };
    t.dequantise_bf16 = [](Quant type, const void* src, uint16_t* dst, int64_t n) {
        shadow_run([=] { cpu().dequantise_bf16(type, host(src), host(dst), n); });
    };
    t.multiply_packed = [](Quant quant, const void* w, const int32_t* source_row, Float type, const void* x,
                           int64_t n, int64_t rows, int64_t columns, void* y) {
        POLYAD_CHECK(!source_row);  // rows of matrices on a device are in order
        shadow_run([=] {
            cpu().multiply_packed(quant, host(w), nullptr, type, host(x), n, rows, columns, host(y));
        });
    };
    t.to_bf16 = [](const float* src, uint16_t* dst, int64_t n) {
        shadow_run([=] { cpu().to_bf16(host(src), host(dst), n); });
    };
    t.from_bf16 = [](const uint16_t* src, float* dst, int64_t n) {
        shadow_run([=] { cpu().from_bf16(host(src), host(dst), n); });
    };
    t.rms_norm = [](Float type, const void* x, const float* w, float eps, void* y, float* rstd, int64_t n,
                    int64_t width) {
        shadow_run([=] { cpu().rms_norm(type, host(x), host(w), eps, host(y), host(rstd), n, width); });
    };
    t.rms_norm_backward = [](Float type, const void* dy, const void* x, const float* w, const float* rstd,
                             void* dx, float* dw, int add, int64_t n, int64_t width) {
        shadow_run([=] {
            cpu().rms_norm_backward(type, host(dy), host(x), host(w), host(rstd), host(dx), host(dw), add, n,
                                    width);
        });
    };
    t.add_rms_norm = [](Float type, void* residual, const void* delta, const float* w, float eps, void* y,
                        float* rstd, int64_t n, int64_t width) {
        shadow_run([=] {
            cpu().add_rms_norm(type, host(residual), host(delta), host(w), eps, host(y), host(rstd), n,
                               width);
        });
    };
    t.rope = [](Float type, void* x, int64_t stride, const float* cos, const float* sin,
                const int32_t* position, int64_t n, int32_t heads, int32_t head_dim, int32_t rotary_dim,
                int inverse) {
        const ShadowArray<int32_t> positions(position, n);
        shadow_run([=] {
            cpu().rope(type, host(x), stride, host(cos), host(sin), positions.now().data(), n, heads,
                       head_dim, rotary_dim, inverse);
        });
    };
    t.swiglu = [](Float type, const void* gate, const void* up, void* y, int64_t n) {
        shadow_run([=] { cpu().swiglu(type, host(gate), host(up), host(y), n); });
    };
    t.swiglu_backward = [](Float type, const void* dy, const void* gate, const void* up, void* dgate,
                           void* dup, int64_t n) {
        shadow_run(
            [=] { cpu().swiglu_backward(type, host(dy), host(gate), host(up), host(dgate), host(dup), n); });
    };
    t.add = [](Float type, void* y, const void* x, int64_t n) {
        shadow_run([=] { cpu().add(type, host(y), host(x), n); });
    };
    t.append = append;
    t.attention = [](const Attention& a, const void* q, void* o, float* lse) {
        const ShadowAttention call(a);
        shadow_run([=] {
            call.with([&](const Attention& seen) { cpu().attention(seen, host(q), host(o), host(lse)); });
        });
    };
    t.attention_backward = [](const Attention& a, const void* q, const void* o, const void* d_o,
                              const float* lse, void* dq, void* const* dk_row, void* const* dv_row) {
        const ShadowAttention call(a);
        const ShadowArray<void*> dk(dk_row, a.rows), dv(dv_row, a.rows);
        shadow_run([=] {
            call.with([&](const Attention& seen) {
                cpu().attention_backward(seen, host(q), host(o), host(d_o), host(lse), host(dq),
                                         hosts(dk.now()).data(), hosts(dv.now()).data());
            });
        });
    };
    t.low_rank_down = [](Float type, const void* x, const void* a, const int32_t* group, Rows rows,
                         int64_t d_in, int64_t rank, float* u) {
        const ShadowRows of(rows);
        const ShadowArray<int32_t> groups(group, rows.count);
        shadow_run([=] {
            cpu().low_rank_down(type, host(x), host(a), groups.now().data(),
                                {of.begin.now().data(), of.count}, d_in, rank, host(u));
        });
    };
    t.low_rank_up = [](Float type, const float* v, const void* b, const int32_t* group, Rows rows,
                       int64_t d_out, int64_t rank, float scale, void* y) {
        const ShadowRows of(rows);
        const ShadowArray<int32_t> groups(group, rows.count);
        shadow_run([=] {
            cpu().low_rank_up(type, host(v), host(b), groups.now().data(), {of.begin.now().data(), of.count},
                              d_out, rank, scale, host(y));
        });
    };
    t.low_rank_rows = low_rank_rows;
    t.low_rank = [](Float type, const void* x, const void* a, const void* b, const int32_t* group, Rows rows,
                    int64_t d_in, int64_t d_out, const GateShape& shape, const float* gate, float scale,
                    void* y) {
        const ShadowRows of(rows);
        const ShadowArray<int32_t> groups(group, rows.count);
        shadow_run([=] {
            const auto begin = of.begin.now(), group_of_row = groups.now();
            const Rows now{begin.data(), of.count};
            const auto tokens = static_cast<size_t>(begin.back());
            std::vector<float> u(tokens * static_cast<size_t>(shape.ranks_in)),
                v(tokens * static_cast<size_t>(shape.ranks_out));
            cpu().low_rank_down(type, host(x), host(a), group_of_row.data(), now, d_in, shape.ranks_in,
                                u.data());
            if (shape.kind == GateKind::none)
                v = u;
            else
                cpu().gate(shape, now, host(gate), u.data(), v.data());
            cpu().low_rank_up(type, v.data(), host(b), group_of_row.data(), now, d_out, shape.ranks_out,
                              scale, host(y));
        });
    };
    t.low_rank_up_backward = [](Float type, const void* dy, const float* v, const void* b,
                                const int32_t* group, Rows rows, int64_t d_out, int64_t rank, float scale,
                                float* dv, float* db) {
        const ShadowRows of(rows);
        const ShadowArray<int32_t> groups(group, rows.count);
        shadow_run([=] {
            cpu().low_rank_up_backward(type, host(dy), host(v), host(b), groups.now().data(),
                                       {of.begin.now().data(), of.count}, d_out, rank, scale, host(dv),
                                       host(db));
        });
    };
    t.low_rank_down_backward = [](Float type, const float* du, const void* x, const void* a,
                                  const int32_t* group, Rows rows, int64_t d_in, int64_t rank, void* dx,
                                  float* da) {
        const ShadowRows of(rows);
        const ShadowArray<int32_t> groups(group, rows.count);
        shadow_run([=] {
            cpu().low_rank_down_backward(type, host(du), host(x), host(a), groups.now().data(),
                                         {of.begin.now().data(), of.count}, d_in, rank, host(dx), host(da));
        });
    };
    t.gate = [](const GateShape& shape, Rows rows, const float* gate, const float* u, float* v) {
        const ShadowRows of(rows);
        shadow_run([=] {
            cpu().gate(shape, {of.begin.now().data(), of.count}, host(gate), host(u), host(v));
        });
    };
    t.gate_backward = [](const GateShape& shape, Rows rows, const float* gate, const float* u,
                         const float* dv, float* du, float* dgate) {
        const ShadowRows of(rows);
        shadow_run([=] {
            cpu().gate_backward(shape, {of.begin.now().data(), of.count}, host(gate), host(u), host(dv),
                                host(du), host(dgate));
        });
    };
    t.cross_entropy = [](float* logits, const int32_t* target, float eps, float* nll, int gradient, int64_t n,
                         int64_t vocab) {
        const ShadowArray<int32_t> targets(target, n);
        shadow_run([=] {
            cpu().cross_entropy(host(logits), targets.now().data(), eps, host(nll), gradient, n, vocab);
        });
    };
    t.adamw = [](const AdamwTensor* tensors, int64_t count, float beta1, float beta2, float eps,
                 float scale) {
        if (fails()) return;
        std::vector<AdamwTensor> all(tensors, tensors + count);
        for (AdamwTensor& tensor : all) {
            tensor.p = host(tensor.p);
            tensor.g = host(tensor.g);
            tensor.m = host(tensor.m);
            tensor.v = host(tensor.v);
        }
        shadow_run([=] { cpu().adamw(all.data(), count, beta1, beta2, eps, scale); });
    };
    t.sum_squares = [](const float* const* x, const int64_t* n, int64_t count) {
        shadow_refuse("sum_squares, which waits");
        std::vector<const float*> all(x, x + count);
        for (const float*& one : all) one = host(one);
        return cpu().sum_squares(all.data(), n, count);
    };
    return t;
}

}  // namespace

void set_shadow_failure(std::string text) {
    const std::lock_guard lock(failure_mutex);
    failure = std::move(text);
}

void leave_shadow_error(const std::string& text) {
    if (error.empty()) error = text;
}

const char* take_shadow_error() {
    if (error.empty()) return nullptr;
    shown_error = std::exchange(error, {});
    return shown_error.c_str();
}

const OpTable& shadow_ops() {
    static const OpTable table = make();
    return table;
}

}  // namespace polyad
