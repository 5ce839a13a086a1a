// SPDX-License-Identifier: Apache-2.0
// The adapted linear against plain formulas, and what a decoder promises about rows, caches and bad input.
#include "backbone/backbone.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "backbone/fused.h"
#include "backbone/low_rank.h"
#include "backbone/output_head.h"
#include "backbone/weights.h"
#include "base/error.h"
#include "base/random.h"
#include "kernels/op_table.h"

namespace polyad {
namespace {

at::TensorOptions floats() {
    return at::TensorOptions().dtype(at::kFloat);
}

at::Tensor noise(Generator& generator, at::IntArrayRef sizes, double std = 1.0) {
    at::Tensor out = at::empty(sizes, floats());
    generator.fill_normal(out.data_ptr<float>(), static_cast<size_t>(out.numel()), 0.0, std);
    return out;
}

double max_difference(const at::Tensor& a, const at::Tensor& b) {
    return a.sub(b).abs().max().item<double>();
}

void expect_near(const at::Tensor& actual, const at::Tensor& expected, double tolerance,
                 const std::string& what) {
    ASSERT_TRUE(actual.defined() && actual.sizes() == expected.sizes()) << what;
    EXPECT_LE(max_difference(actual, expected), tolerance * (1.0 + expected.abs().max().item<double>()))
        << what;
}

/// The formula of low_rank.h token by token, with ATen's own autograd.
at::Tensor plain_formula(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias,
                         const RowBegin& rows, const std::vector<LowRank>& updates) {
    std::vector<at::Tensor> out;
    for (size_t row = 0; row + 1 < rows.size(); ++row) {
        const int64_t begin = rows[row], n = rows[row + 1] - begin;
        at::Tensor y = x.narrow(0, begin, n).mm(w.t());
        if (bias.defined()) y = y.add(bias);
        for (const LowRank& update : updates) {
            const int32_t group = update.group_of_row.empty() ? 0 : update.group_of_row[row];
            if (group < 0) continue;
            const at::Tensor input = (update.input.defined() ? update.input : x).narrow(0, begin, n);
            at::Tensor v = input.mm(update.a[group].t());
            const int64_t r1 = update.a.size(1), r2 = update.b.size(2);
            if (update.gate_kind != Gate::none) {
                at::Tensor gate = update.gate_per_token
                                      ? update.gate.narrow(0, begin, n)
                                      : update.gate.narrow(0, static_cast<int64_t>(row), 1).expand({n, -1});
                if (update.gate_kind == Gate::diagonal)
                    v = v.mul(gate.repeat_interleave(r1 / gate.size(1), 1));
                else
                    v = v.unsqueeze(1).bmm(gate.reshape({n, r1, r2})).squeeze(1);
            }
            y = y.add(v.mm(update.b[group].t()).mul(update.scale));
        }
        out.push_back(y);
    }
    return at::cat(out, 0);
}

struct Case {
    const char* name;
    Gate gate;
    bool per_token, groups, own_input;
};

std::vector<Case> all_cases() {
    std::vector<Case> cases;
    for (const Gate gate : {Gate::none, Gate::diagonal, Gate::full})
        for (const bool per_token : {false, true})
            for (const bool groups : {false, true})
                for (const bool own_input : {false, true})
                    if (gate != Gate::none || !per_token)
                        cases.push_back({"", gate, per_token, groups, own_input});
    return cases;
}

TEST(AdaptedLinear, ForwardAndEveryGradientFollowTheFormula) {
    const RowBegin rows{0, 5, 6, 17, 24};
    const int64_t n = 24, d_in = 40, d_out = 56, rank = 12;
    for (const Case& c : all_cases()) {
        Generator generator(7);
        const at::Tensor w = noise(generator, {d_out, d_in}, 0.2), bias = noise(generator, {d_out});
        at::Tensor x = noise(generator, {n, d_in}).requires_grad_(true);
        std::vector<at::Tensor> leaves{x};
        std::vector<LowRank> updates;
        for (int u = 0; u < 2; ++u) {  // two updates at once, the second one plain
            LowRank update;
            const int64_t groups = c.groups ? 3 : 1, ranks_in = c.gate == Gate::full && u == 0 ? 6 : rank;
            update.a = noise(generator, {groups, ranks_in, d_in}, 0.3).requires_grad_(true);
            update.b = noise(generator, {groups, d_out, rank}, 0.3).requires_grad_(true);
            if (c.groups) update.group_of_row = {2, -1, 0, 2};
            update.scale = 0.75;
            leaves.insert(leaves.end(), {update.a, update.b});
            if (u == 0 && c.gate != Gate::none) {
                update.gate_kind = c.gate;
                update.gate_per_token = c.per_token;
                update.gate =
                    noise(generator, {c.per_token ? n : 4, c.gate == Gate::full ? ranks_in * rank : 4});
                update.gate.requires_grad_(true);
                leaves.push_back(update.gate);
            }
            if (u == 0 && c.own_input) {
                update.input = noise(generator, {n, d_in}).requires_grad_(true);
                leaves.push_back(update.input);
            }
            updates.push_back(update);
        }
        const at::Tensor probe = noise(generator, {n, d_out});
        const std::string what =
            text("gate ", static_cast<int>(c.gate), c.per_token ? " per token" : " per row",
                 c.groups ? ", groups" : "", c.own_input ? ", own input" : "");

        const at::Tensor expected = plain_formula(x, w, bias, rows, updates);
        expected.mul(probe).sum().backward();
        std::vector<at::Tensor> wanted;
        for (at::Tensor& leaf : leaves) {
            wanted.push_back(leaf.grad().clone());
            leaf.mutable_grad() = at::Tensor();
        }
        const auto follows = [&](const std::vector<LowRank>& given, const std::string& how) {
            const at::Tensor actual = adapted_linear(x, w, bias, rows, given);
            expect_near(actual.detach(), expected.detach(), 2e-6, how);
            actual.mul(probe).sum().backward();
            for (size_t i = 0; i < leaves.size(); ++i) {
                expect_near(leaves[i].grad(), wanted[i], 1e-5, text(how, ", leaf ", i));
                leaves[i].mutable_grad() = at::Tensor();
            }
        };
        follows(updates, what);
        if (c.groups) continue;
        for (LowRank& update : updates) {
            update.input = (update.input.defined() ? update.input : x).mm(update.a[0].t());
            update.a = at::Tensor();
        }
        follows(updates, what + ", projected before");
    }
}

TEST(AdaptedLinear, FactorsTrainWhenTheInputDoesNot) {
    Generator generator(3);
    const RowBegin rows{0, 3};
    const at::Tensor x = noise(generator, {3, 8}), w = noise(generator, {6, 8});
    LowRank update;
    update.a = noise(generator, {1, 2, 8}).requires_grad_(true);
    update.b = noise(generator, {1, 6, 2}).requires_grad_(true);
    adapted_linear(x, w, {}, rows, {update}).sum().backward();
    const at::Tensor wanted = x.mm(update.a.detach()[0].t()).sum(0);
    expect_near(update.b.grad()[0], wanted.unsqueeze(0).expand({6, 2}), 1e-5, "b");
}

TEST(AdaptedLinear, NothingOrAZeroFactorLeavesTheBaseBitForBit) {
    Generator generator(5);
    const RowBegin rows{0, 9, 30};
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
        const at::Tensor x = noise(generator, {30, 64}).to(dtype), w = noise(generator, {48, 64}).to(dtype);
        const at::Tensor base = adapted_linear(x, w, {}, rows, {});
        EXPECT_FALSE(base.requires_grad());
        LowRank update;
        update.a = noise(generator, {1, 8, 64}).requires_grad_(true);
        update.b = at::zeros({1, 48, 8}, floats()).requires_grad_(true);
        const at::Tensor adapted = adapted_linear(x, w, {}, rows, {update}).detach();
        EXPECT_EQ(std::memcmp(adapted.data_ptr(), base.data_ptr(), base.nbytes()), 0);
        update.b = noise(generator, {1, 48, 8});
        update.group_of_row = {-1, 0};
        const at::Tensor half = adapted_linear(x, w, {}, rows, {update}).detach();
        EXPECT_TRUE(half.narrow(0, 0, 9).equal(base.narrow(0, 0, 9)));
        EXPECT_FALSE(half.narrow(0, 9, 21).equal(base.narrow(0, 9, 21)));
    }
}

TEST(AdaptedLinear, RefusesWhatDoesNotFit) {
    Generator generator(5);
    const RowBegin rows{0, 4};
    const at::Tensor x = noise(generator, {4, 8}), w = noise(generator, {6, 8});
    const auto refused = [&](const std::function<void(LowRank&)>& change) {
        LowRank update;
        update.a = noise(generator, {1, 4, 8});
        update.b = noise(generator, {1, 6, 4});
        change(update);
        EXPECT_THROW(adapted_linear(x, w, {}, rows, {update}), Error);
    };
    refused([](LowRank& u) { u.group_of_row = {1}; });
    refused([](LowRank& u) { u.group_of_row = {0, 0}; });
    refused([&](LowRank& u) { u.a = noise(generator, {1, 4, 9}); });
    refused([&](LowRank& u) { u.b = noise(generator, {1, 6, 3}); });
    refused([&](LowRank& u) {
        u.gate_kind = Gate::diagonal;
        u.gate = noise(generator, {1, 3});
    });
    refused([](LowRank& u) { u.a = at::Tensor(); });
    refused([&](LowRank& u) {
        u.a = at::Tensor();
        u.input = noise(generator, {4, 3});
    });
    EXPECT_THROW(adapted_linear(x, w, {}, {0, 3}, {}), Error);
}

/// d f / d x by central differences, for checking hand-written gradients without another formula.
void expect_numeric_gradient(const std::function<at::Tensor(const at::Tensor&)>& f, at::Tensor x,
                             const char* what) {
    at::Tensor leaf = x.clone().requires_grad_(true);
    f(leaf).backward();
    at::NoGradGuard no_grad;
    const float step = 1e-2f;
    for (int64_t i = 0; i < x.numel(); i += 3) {
        at::Tensor up = x.clone(), down = x.clone();
        up.view({-1})[i].add_(step);
        down.view({-1})[i].sub_(step);
        const double numeric = (f(up).item<double>() - f(down).item<double>()) / (2.0 * step);
        EXPECT_NEAR(leaf.grad().view({-1})[i].item<double>(), numeric, 5e-3 * (1.0 + std::fabs(numeric)))
            << what << " at " << i;
    }
}

TEST(FusedNodes, GradientsFollowDifferences) {
    Generator generator(11);
    const at::Tensor w = noise(generator, {16}), probe = noise(generator, {6, 16}),
                     other = noise(generator, {6, 16});
    expect_numeric_gradient([&](const at::Tensor& x) { return rms_norm(x, w, 1e-5).mul(probe).sum(); },
                            noise(generator, {6, 16}), "rms_norm");
    expect_numeric_gradient(
        [&](const at::Tensor& x) {
            const auto [sum, y] = add_rms_norm(x, other.clone(), w, 1e-5);
            return y.mul(probe).add(sum.mul(0.5)).sum();
        },
        noise(generator, {6, 16}), "add_rms_norm, residual");
    expect_numeric_gradient(
        [&](const at::Tensor& x) { return add_rms_norm(other, x.mul(2.0), w, 1e-5).second.mul(probe).sum(); },
        noise(generator, {6, 16}), "add_rms_norm, delta");
    const auto gated = [](const at::Tensor& gate, const at::Tensor& up) {
        return swiglu(gate, up, std::make_shared<GateUp>(gate, up, Replay()));
    };
    expect_numeric_gradient([&](const at::Tensor& x) { return gated(x, other).mul(probe).sum(); },
                            noise(generator, {6, 16}), "swiglu, gate");
    expect_numeric_gradient([&](const at::Tensor& x) { return gated(other, x).mul(probe).sum(); },
                            noise(generator, {6, 16}), "swiglu, up");
}

/// One gain per row, as kernels norm it, is that gain for each of the row's tokens, as plain autograd does.
TEST(FusedNodes, ANormPerRowIsThatOfItsTokens) {
    Generator generator(12);
    const RowBegin rows{0, 2, 2, 6};
    const at::Tensor x = noise(generator, {6, 16}), delta = noise(generator, {6, 16}),
                     probe = noise(generator, {6, 16}), lines = noise(generator, {3, 8});
    const at::Tensor row_of_token = at::tensor({0, 0, 2, 2, 2, 2}, at::kLong);
    std::vector<std::vector<at::Tensor>> results;
    for (const bool per_row : {true, false}) {
        const at::Tensor a = x.clone().requires_grad_(true), d = delta.clone().requires_grad_(true),
                         w = lines.clone().requires_grad_(true);
        const auto line = [&](const at::Tensor& gain) {
            return per_row ? gain : gain.index_select(0, row_of_token);
        };
        const at::Tensor heads = rms_norm(a, line(w), 1e-5, rows);
        const auto [sum, y] = add_rms_norm(a, d * 2.0, line(at::cat({w, w}, 1)), 1e-5, rows);
        (heads.mul(probe) + y.mul(probe) + sum.mul(0.5)).sum().backward();
        results.push_back({heads, sum, y, a.grad(), d.grad(), w.grad()});
    }
    for (size_t i = 0; i < results[0].size(); ++i)
        EXPECT_LT((results[0][i] - results[1][i]).abs().max().item<double>(), 1e-5) << i;
}

TEST(FusedNodes, AttentionGradientsFollowDifferences) {
    Generator generator(13);
    ModelConfig config;
    config.rotary_dim = 8;
    const Rope rope(config, {});
    auto plan = std::make_shared<AttentionPlan>();
    plan->heads = 4;
    plan->heads_kv = 2;
    plan->head_dim = 8;
    plan->scale = 0.35;
    plan->query_begin = {0, 5, 7};
    plan->key_count = {5, 2};
    plan->position = {0, 1, 2, 3, 4, 0, 1};
    plan->rope = rope.table(5);
    const at::Tensor q = noise(generator, {7, 32}), k = noise(generator, {7, 16}),
                     v = noise(generator, {7, 16});
    const at::Tensor probe = noise(generator, {7, 32});
    for (const int window : {0, 3}) {
        const auto loss = [&](const at::Tensor& a, const at::Tensor& b, const at::Tensor& c) {
            // mul(1): the rotation works in its arguments' storage
            return rotary_attention(a.mul(1), b.mul(1), c.mul(1), plan, window, nullptr).mul(probe).sum();
        };
        expect_numeric_gradient([&](const at::Tensor& x) { return loss(x, k, v); }, q, "q");
        expect_numeric_gradient([&](const at::Tensor& x) { return loss(q, x, v); }, k, "k");
        expect_numeric_gradient([&](const at::Tensor& x) { return loss(q, k, x); }, v, "v");
    }
}

TEST(OutputHead, NllAndItsGradientMatchAtenWithAndWithoutSmoothing) {
    Generator generator(17);
    const int64_t vocab = 70, width = 24;
    const FrozenMatrix head(noise(generator, {vocab, width}, 0.3));
    const std::vector<int32_t> targets{3, 69, 0, -1, 12};
    for (const double smoothing : {0.0, 0.1}) {
        at::Tensor h = noise(generator, {5, width}).requires_grad_(true);
        const at::Tensor weights = noise(generator, {5});
        const at::Tensor log_p = h.mm(head.dense().t()).log_softmax(1);
        at::Tensor expected = at::zeros({5}, floats());
        for (int64_t t = 0; t < 5; ++t)
            if (targets[static_cast<size_t>(t)] >= 0)
                expected[t] = log_p[t][targets[static_cast<size_t>(t)]]
                                  .mul(-(1.0 - smoothing))
                                  .sub(log_p[t].mean().mul(smoothing));
        expected.mul(weights).sum().backward();
        const at::Tensor wanted = h.grad().clone();
        h.mutable_grad() = at::Tensor();
        const at::Tensor nll = head_nll(h, head, targets, smoothing);
        expect_near(nll.detach(), expected.detach(), 1e-5, "nll");
        nll.mul(weights).sum().backward();
        expect_near(h.grad(), wanted, 1e-5, "gradient");
    }
    const at::Tensor h = noise(generator, {1, width});
    EXPECT_THROW(head_nll(h, head, {static_cast<int32_t>(vocab)}, 0.0), Error);
    EXPECT_THROW(head_nll(h, head, {1}, 1.0), Error);
    EXPECT_THROW(head_nll(h, head, {1, 2}, 0.0), Error);
}

TEST(OutputHead, ANanInTheHiddenStateShowsInTheLoss) {
    Generator generator(19);
    const FrozenMatrix head(noise(generator, {70, 24}, 0.3));
    at::Tensor h = noise(generator, {3, 24});
    h[1][4].fill_(NAN);
    const at::Tensor nll = head_nll(h, head, {1, 2, 3}, 0.0);
    EXPECT_TRUE(std::isnan(nll[1].item<float>()));
    EXPECT_TRUE(std::isfinite(nll[0].item<float>()) && std::isfinite(nll[2].item<float>()));
}

// ---- a whole decoder

class DecoderTest : public testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        const auto folder = std::filesystem::path(POLYAD_SHARED_DIR) / "fixtures" / "models" / GetParam();
        if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is missing";
        backbone = Backbone::open(folder, {Precision::fp32, WeightStorage::automatic});
    }

    static Batch batch_of(const std::vector<std::vector<int32_t>>& rows) {
        Batch batch;
        batch.row_begin.push_back(0);
        for (const auto& row : rows) {
            batch.tokens.insert(batch.tokens.end(), row.begin(), row.end());
            batch.row_begin.push_back(batch.size());
            batch.prompt_length.push_back(static_cast<int32_t>(row.size()));
        }
        return batch;
    }

    std::shared_ptr<const Backbone> backbone;
    const std::vector<std::vector<int32_t>> rows{
        {5, 9, 200, 41, 7, 7, 130, 77, 12}, {33}, {250, 1, 2, 3, 88, 64, 19, 5, 5, 240, 6, 31, 17}};
};

// Matrix products may split sums differently for another number of rows, so rows agree to rounding, not to
// the bit.
TEST_P(DecoderTest, ARowIsTheSameAloneAndInAMixedBatch) {
    at::NoGradGuard no_grad;
    const Batch mixed = batch_of(rows);
    const at::Tensor all = backbone->hidden(mixed);
    for (size_t b = 0; b < rows.size(); ++b) {
        const at::Tensor alone = backbone->hidden(batch_of({rows[b]}));
        expect_near(all.narrow(0, mixed.row_begin[b], alone.size(0)), alone, 2e-6, text("row ", b));
    }
}

TEST_P(DecoderTest, FutureTokensAndOtherRowsNeverChangeARow) {
    at::NoGradGuard no_grad;
    auto changed = rows;
    changed[0].back() = 99;
    changed[2][5] = 98;
    const at::Tensor before = backbone->hidden(batch_of(rows)), after = backbone->hidden(batch_of(changed));
    EXPECT_TRUE(before.narrow(0, 0, 8).equal(after.narrow(0, 0, 8)));
    EXPECT_TRUE(before.narrow(0, 9, 6).equal(after.narrow(0, 9, 6)));
    EXPECT_FALSE(before[8].equal(after[8]));
}

TEST_P(DecoderTest, ACacheFilledInPiecesGivesTheSameStates) {
    at::NoGradGuard no_grad;
    const at::Tensor whole = backbone->hidden(batch_of(rows));
    const auto cache = backbone->make_cache(4, 16);
    ForwardOptions options;
    options.cache = cache.get();
    options.slots = {3, 1};  // rows 0 and 2, in slots of another order
    const auto piece = [](const std::vector<int32_t>& row, size_t begin, size_t end) {
        return std::vector<int32_t>(row.begin() + static_cast<int64_t>(begin),
                                    row.begin() + static_cast<int64_t>(end));
    };
    backbone->hidden(batch_of({piece(rows[0], 0, 4), piece(rows[2], 0, 6)}), options);
    EXPECT_EQ(cache->length(3), 4);
    EXPECT_EQ(cache->length(1), 6);
    backbone->hidden(batch_of({{1, 2}, {3, 4, 5}}), options);  // a draft that is taken back
    cache->truncate(3, 4);
    cache->truncate(1, 6);
    const at::Tensor tail =
        backbone->hidden(batch_of({piece(rows[0], 4, 9), piece(rows[2], 6, 13)}), options);
    expect_near(tail.narrow(0, 0, 5), whole.narrow(0, 4, 5), 3e-6, "row 0");
    expect_near(tail.narrow(0, 5, 7), whole.narrow(0, 16, 7), 3e-6, "row 2");
}

TEST_P(DecoderTest, RefusesBadInputByName) {
    at::NoGradGuard no_grad;
    const auto code_of = [&](const Batch& batch, const ForwardOptions& options) {
        try {
            backbone->hidden(batch, options);
        } catch (const Error& error) {
            return error.code();
        }
        return Code::ok;
    };
    EXPECT_EQ(code_of(batch_of({{1, static_cast<int32_t>(backbone->info().vocab)}}), {}),
              Code::invalid_argument);
    EXPECT_EQ(code_of(batch_of({{1, -1}}), {}), Code::invalid_argument);
    EXPECT_EQ(code_of(batch_of({{1}, {}}), {}), Code::invalid_argument);
    EXPECT_EQ(code_of(Batch{}, {}), Code::invalid_argument);
    const std::vector<int32_t> endless(static_cast<size_t>(backbone->info().context) + 1, 4);
    EXPECT_EQ(code_of(batch_of({endless}), {}), Code::context_overflow);

    const auto cache = backbone->make_cache(2, 4);
    ForwardOptions options;
    options.cache = cache.get();
    options.slots = {0};
    EXPECT_EQ(code_of(batch_of({{1, 2, 3, 4, 5}}), options), Code::context_overflow);
    EXPECT_EQ(cache->length(0), 0);
    options.slots = {0, 0};
    EXPECT_EQ(code_of(batch_of({{1}, {2}}), options), Code::invalid_argument);
    options.slots = {0, 2};
    EXPECT_EQ(code_of(batch_of({{1}, {2}}), options), Code::invalid_argument);
    EXPECT_THROW(cache->truncate(0, 1), Error);
    EXPECT_THROW(backbone->make_cache(0, 4), Error);
}

TEST_P(DecoderTest, SitesComeInExecutionOrderUnderTheirPaths) {
    const auto& sites = backbone->sites();
    ASSERT_EQ(sites.size(), static_cast<size_t>(7 * backbone->info().layers));
    EXPECT_EQ(sites[0].path, "model.layers.0.self_attn.q_proj");
    EXPECT_EQ(sites[8].path, "model.layers.1.self_attn.k_proj");
    EXPECT_EQ(sites[13].path, "model.layers.1.mlp.down_proj");
    EXPECT_EQ(sites[13].d_out, backbone->info().width);
    for (size_t i = 0; i < sites.size(); ++i) EXPECT_EQ(sites[i].index, static_cast<int>(i));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, DecoderTest,
                         testing::Values("llama", "llama_bf16_sharded", "qwen3", "mistral"),
                         [](const auto& info) { return std::string(info.param); });

TEST(PackedWeights, GiveExactlyWhatExpandedOnesGive) {
    const auto path = std::filesystem::path(POLYAD_SHARED_DIR) / "fixtures" / "gguf" / "tiny_llama.gguf";
    if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is missing";
    const auto packed = Backbone::open(path, {Precision::fp32, WeightStorage::packed});
    const auto expanded = Backbone::open(Bytes::map_file(path), {Precision::fp32, WeightStorage::expanded});
    Batch batch;
    batch.tokens = {3, 1, 4, 1, 5};
    batch.row_begin = {0, 5};
    at::Tensor gradients[2], states[2];
    for (int i = 0; i < 2; ++i) {
        const auto& backbone = i == 0 ? packed : expanded;
        ForwardOptions options;
        options.embeddings = backbone->embed(batch.tokens).requires_grad_(true);
        states[i] = backbone->hidden(batch, options);
        backbone->token_nll(states[i], {1, 4, 1, 5, 9}).sum().backward();
        gradients[i] = options.embeddings.grad();
    }
    EXPECT_TRUE(states[0].detach().equal(states[1].detach()));
    EXPECT_TRUE(gradients[0].equal(gradients[1]));
    EXPECT_EQ(packed->info().fingerprint, expanded->info().fingerprint);
}

}  // namespace
}  // namespace polyad
