// SPDX-License-Identifier: Apache-2.0
// PEMT: what its two stages compute inside a model. The formulas of one layer: tests/golden.
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <cmath>

#include "pemt_fixture.h"
#include "routing/task_sparsity.h"
#include "serving/generate.h"
#include "training/trainer.h"

namespace polyad {
namespace {

using tiny::largest;
using tiny::Row;

class Pemt : public tiny::Stages {};

const std::vector<int32_t> one{20, 21, 22, 23, 24, 25}, other{100, 101, 102};

at::Tensor drawn(at::IntArrayRef shape, uint64_t seed) {
    at::Tensor out = at::empty(shape, at::TensorOptions().dtype(at::kFloat));
    Generator(seed).fill_normal(out.mutable_data_ptr<float>(), static_cast<size_t>(out.numel()), 0.0, 1.0);
    return out;
}

TEST_F(Pemt, PromptsStartFromWhatDescribesTheTask) {
    const auto skills = tiny::skillset(tiny::source_config(), *tiny::dataset());
    const auto ids = tiny::backbone()->tokenizer()->encode("Say up.", false);
    const size_t count = std::min<size_t>(6, ids.size());
    const at::Tensor& up = tiny::parameter(*skills, "prompt.1").value;  // tasks: down, up
    EXPECT_EQ(largest(up, tiny::backbone()->embed({ids.begin(), ids.begin() + static_cast<long>(count)})),
              0.0);
    EXPECT_EQ(skills->method().prefix_tokens(1), static_cast<int>(count));
    EXPECT_TRUE(skills->method().exclusive());
    EXPECT_EQ(skills->sites().size(), 2u);  // one output projection per layer
    for (const Site& site : skills->sites()) EXPECT_EQ(site.name(), "down_proj");

    Json config = tiny::source_config();
    config["prompt_tokens"] = 40;  // more than the description has: it is repeated
    const auto longer = tiny::skillset(config, *tiny::dataset());
    const at::Tensor& repeated = tiny::parameter(*longer, "prompt.1").value;
    ASSERT_EQ(repeated.size(0), 40);
    EXPECT_EQ(largest(repeated[0], repeated[static_cast<int64_t>(ids.size())]), 0.0);
}

TEST_F(Pemt, FreshSourcesOfStageOneOnlyAddTheirPrompt) {
    const auto skills = tiny::skillset(tiny::source_config(), *tiny::dataset());
    const at::NoGradGuard no_gradients;
    const at::Tensor got = tiny::run(*skills, {{one, 6, 1}}).hidden;
    Batch batch;
    batch.tokens = one;
    const at::Tensor& prompt = tiny::parameter(*skills, "prompt.1").value;
    const auto n = static_cast<int32_t>(prompt.size(0));
    batch.tokens.insert(batch.tokens.begin(), static_cast<size_t>(n), 0);
    batch.row_begin = {0, batch.size()};
    batch.prompt_length = {batch.size()};
    ForwardOptions options;
    options.embeddings = at::cat({prompt, tiny::backbone()->embed(one)}, 0);
    EXPECT_EQ(largest(got, tiny::backbone()->hidden(batch, options).narrow(0, n, 6)), 0.0);
}

TEST_F(Pemt, ZeroGatesTrustEverySourceAlike) {
    const auto skills = tiny::skillset(target_config(saved(*sources())), *tiny::dataset(tiny::target_rows()));
    const at::NoGradGuard no_gradients;
    const tiny::Run out = tiny::run(*skills, {{one, 4, 0}, {other, 3, 1}});
    ASSERT_EQ(out.trace.size(), 2u);
    for (const auto& [site, values] : out.trace)
        EXPECT_LT((values.at("weights") - 0.5).abs().max().item<double>(), 1e-7) << site;
    EXPECT_EQ(skills->method().task_weights(1), (std::vector<float>{0.5f, 0.5f}));
}

TEST_F(Pemt, GatesAreWhatTheLayerReadsFromThePrompt) {
    const auto skills = target();
    const at::NoGradGuard no_gradients;
    const tiny::Run out = tiny::run(*skills, {{one, 6, 0}});
    const auto& gates = out.trace.at("model.layers.0.mlp.down_proj").at("weights");
    EXPECT_NEAR(gates.sum().item<double>(), 1.0, 1e-6);
    EXPECT_GT((gates - 0.5).abs().max().item<double>(), 1e-4);
    // A causal prefix sees nothing of the row: the task's gates, whatever the row says.
    const tiny::Run another = tiny::run(*skills, {{other, 3, 0}});
    EXPECT_LT(largest(gates, another.trace.at("model.layers.0.mlp.down_proj").at("weights")), 1e-6);
    const std::vector<float> report = skills->method().task_weights(0);
    double sum = 0.0;
    for (size_t i = 0; i < report.size(); ++i) {
        double mean = 0.0;
        for (const auto& [site, values] : out.trace)
            mean += values.at("weights")[0][static_cast<int64_t>(i)].item<double>();
        EXPECT_NEAR(report[i], mean / 2.0, 1e-6);
        sum += report[i];
    }
    EXPECT_NEAR(sum, 1.0, 1e-6);

    const auto reading = target({{"gate_reads", "prompt"}});
    const auto first = tiny::run(*reading, {{one, 6, 0}}), second = tiny::run(*reading, {{other, 3, 0}});
    EXPECT_GT(largest(first.trace.at("model.layers.0.mlp.down_proj").at("weights"),
                      second.trace.at("model.layers.0.mlp.down_proj").at("weights")),
              1e-5);
    // What follows the prompt is not read.
    const auto changed = tiny::run(*reading, {{{20, 21, 22, 23, 7, 8}, 4, 0}}),
               kept = tiny::run(*reading, {{one, 4, 0}});
    EXPECT_LT(largest(changed.trace.at("model.layers.1.mlp.down_proj").at("weights"),
                      kept.trace.at("model.layers.1.mlp.down_proj").at("weights")),
              1e-6);
}

TEST_F(Pemt, RowsOfTwoTasksEqualThemselvesAlone) {
    const at::NoGradGuard no_gradients;
    for (const char* expert : {"lora", "bottleneck"})
        for (const auto& skills : {sources(expert), target(Json::object(), expert)}) {
            const std::vector<Row> rows{{one, 4, 0}, {other, 3, 1}, {{7, 8}, 2, 0}};
            const at::Tensor together = tiny::run(*skills, rows).hidden;
            std::vector<at::Tensor> alone;
            for (const Row& row : rows) alone.push_back(tiny::run(*skills, {row}).hidden);
            EXPECT_LT(largest(together, at::cat(alone, 0)), 2e-4) << expert;
            Row swapped = rows[0];
            swapped.task = 1;
            EXPECT_GT(largest(alone[0], tiny::run(*skills, {swapped}).hidden), 1e-2);  // the task matters
        }
}

TEST_F(Pemt, CachedRowsEqualWholeOnes) {
    const at::NoGradGuard no_gradients;
    for (const Json& more : {Json::object(), Json{{"gate_reads", "prompt"}}})
        for (const char* expert : {"lora", "bottleneck"}) {
            const auto skills = target(more, expert);
            const at::Tensor whole = tiny::run(*skills, {{one, 3, 0}}).hidden;
            const at::Tensor second = tiny::run(*skills, {{other, 2, 1}}).hidden;
            const auto cache = tiny::backbone()->make_cache(2, 32);
            RouteMemory memory[2];
            const at::Tensor begun =
                tiny::run(*skills, {{{20, 21, 22}, 3, 0, &memory[0], 0}}, cache.get()).hidden;
            // Row 0 goes on, without a prefix, beside a row that begins with one.
            const at::Tensor mixed =
                tiny::run(*skills, {{{23}, 0, 0, &memory[0], 0}, {{100, 101}, 2, 1, &memory[1], 1}},
                          cache.get())
                    .hidden;
            EXPECT_LT(largest(mixed.narrow(0, 1, 2), second.narrow(0, 0, 2)), 2e-4);
            const at::Tensor last =
                tiny::run(*skills, {{{24, 25}, 0, 0, &memory[0], 0}, {{102}, 0, 1, &memory[1], 1}},
                          cache.get())
                    .hidden;
            EXPECT_LT(largest(last.narrow(0, 2, 1), second.narrow(0, 2, 1)), 2e-4);
            EXPECT_LT(largest(at::cat({begun, mixed.narrow(0, 0, 1), last.narrow(0, 0, 2)}, 0), whole), 2e-4);
        }
    const auto skills = target();
    EXPECT_REFUSED(tiny::run(*skills, {{{23}, 0, 0}}), Code::invalid_argument, "nothing was kept");
}

TEST_F(Pemt, GenerationServesSourcesTargetsAndOthersTogether) {
    const auto stage1 = sources(), stage2 = target();
    const auto input = [](std::shared_ptr<const Skillset> skills, int task, std::vector<int32_t> prompt) {
        GenerationInput out;
        out.skillset = std::move(skills);
        out.task = task;
        out.prompt = std::move(prompt);
        out.sampling.max_tokens = 9;
        out.sampling.ignore_eos = true;
        return out;
    };
    const std::vector<GenerationInput> rows{input(stage2, 0, one), input(nullptr, -1, one),
                                            input(stage2, 1, one), input(stage1, 0, one),
                                            input(stage2, 0, other)};
    std::vector<Generated> alone;
    for (const GenerationInput& row : rows) alone.push_back(generate(tiny::backbone(), {row}).front());
    for (const int max_batch : {8, 2}) {
        const std::vector<Generated> together = generate(tiny::backbone(), rows, max_batch);
        for (size_t i = 0; i < rows.size(); ++i)
            EXPECT_EQ(together[i].tokens, alone[i].tokens) << "row " << i;
    }
    EXPECT_NE(alone[0].tokens, alone[1].tokens);
    EXPECT_NE(alone[0].tokens, alone[2].tokens);

    // Greedy decoding over the cache says what whole forwards say.
    const at::NoGradGuard no_gradients;
    std::vector<int32_t> row = one;
    for (const int32_t token : alone[0].tokens) {
        const at::Tensor hidden = tiny::run(*stage2, {{row, 6, 0}}).hidden;
        const at::Tensor logits = tiny::backbone()->logits(hidden.narrow(0, hidden.size(0) - 1, 1))[0];
        EXPECT_GT(logits[token].item<double>(), logits.max().item<double>() - 1e-3);
        row.push_back(token);
    }
    GenerationInput without = input(stage2, -1, one);
    EXPECT_REFUSED(generate(tiny::backbone(), {without}), Code::unknown_task, "routes by task");
}

TEST_F(Pemt, ExplicitWeightsStandInForTheGates) {
    const auto skills = target();
    const at::NoGradGuard no_gradients;
    GenerationInput row;
    row.skillset = skills;
    row.task = 0;
    row.prompt = one;
    row.sampling.max_tokens = 6;
    row.sampling.ignore_eos = true;
    const auto own = generate(tiny::backbone(), {row}).front().tokens;
    row.weights = {0.0f, 8.0f};
    EXPECT_NE(generate(tiny::backbone(), {row}).front().tokens, own);
    row.weights = {1.0f};
    EXPECT_REFUSED(generate(tiny::backbone(), {row}), Code::invalid_argument, "2 skills");
}

TEST_F(Pemt, InitOnceAddsTheSourcesAnswerToTheStart) {
    const std::string bundle = saved(*sources());
    Json config = target_config(bundle);
    const auto dynamic = tiny::skillset(config, *tiny::dataset(tiny::target_rows()));
    config["corr_prompt"] = "init_once";
    const auto once = tiny::skillset(config, *tiny::dataset(tiny::target_rows()));
    const at::NoGradGuard no_gradients;
    const at::Tensor& p = tiny::parameter(*dynamic, "prompt.0").value;
    at::Tensor want = p;
    for (const char* name : {"source_prompt.0", "source_prompt.1"}) {
        const at::Tensor& s = tiny::parameter(*dynamic, name).value;
        want = want + at::mm(at::softmax(at::mm(p, s.t()), -1), s);
    }
    EXPECT_LT(largest(tiny::parameter(*once, "prompt.0").value, want), 1e-5);
    EXPECT_LT(largest(tiny::run(*once, {{one, 6, 0}}).hidden, tiny::run(*dynamic, {{one, 6, 0}}).hidden),
              2e-4);
}

TEST_F(Pemt, DropoutOfThePromptIsTheSeedsOwn) {
    const auto skills = target({{"prompt_dropout", 0.5}});
    const at::NoGradGuard no_gradients;
    Generator a(5), b(5), c(6);
    const auto train = [&](Generator& noise) {
        return tiny::run(*skills, {{one, 6, 0}}, nullptr, Mode::train, &noise).hidden;
    };
    const at::Tensor first = train(a);
    EXPECT_EQ(largest(first, train(b)), 0.0);
    EXPECT_GT(largest(first, train(c)), 1e-4);
    EXPECT_GT(largest(first, train(a)), 1e-4);
}

TEST(TaskSparsity, FactorsGiveTheCosinesOfTheOutputs) {
    const int64_t tokens = 7, experts = 3, rank = 2, d_in = 5, d_out = 4;
    const at::Tensor f = drawn({tokens, d_out}, 1), u = drawn({tokens, d_in}, 2);
    at::Tensor a = drawn({experts, rank, d_in}, 3), b = drawn({experts, d_out, rank}, 4);
    b[2].zero_();  // an expert that says nothing
    std::vector<at::Tensor> outputs;
    for (int64_t i = 0; i < experts; ++i) outputs.push_back(at::mm(at::mm(u, a[i].t()), b[i].t()) * 0.7);
    const StackedExperts stacked = StackedExperts::of(a, b, 0.7, at::kFloat);
    const at::Tensor plain = cosine_to(f, outputs),
                     quick = cosine_to_low_rank(f, project(u, stacked), stacked);
    EXPECT_LT(largest(plain, quick), 1e-5);
    EXPECT_EQ(quick.select(1, 2).abs().max().item<double>(), 0.0);
    {
        const at::Tensor weight = drawn({tokens, experts}, 6);
        std::vector<at::Tensor> leaves;
        for (const at::Tensor& start : {f, u, f, u}) leaves.push_back(start.clone().requires_grad_(true));
        outputs.clear();
        for (int64_t i = 0; i < experts; ++i)
            outputs.push_back(at::mm(at::mm(leaves[1], a[i].t()), b[i].t()) * 0.7);
        (cosine_to(leaves[0], outputs) * weight).sum().backward();
        (cosine_to_low_rank(leaves[2], project(leaves[3], stacked), stacked) * weight).sum().backward();
        EXPECT_LT(largest(leaves[0].grad(), leaves[2].grad()), 1e-5);
        EXPECT_LT(largest(leaves[1].grad(), leaves[3].grad()), 1e-5);
    }
    const at::Tensor gates = at::softmax(drawn({2, experts}, 5), -1);
    double want = 0.0;
    for (int64_t i = 0; i < experts; ++i)
        want += gates.mean(0)[i].item<double>() * (1.0 - plain.select(1, i).mean().item<double>());
    EXPECT_NEAR(task_sparsity(quick, gates, {}).item<double>(), want, 1e-5);
}

/// Along a parameter's own gradient the loss must rise by its length.
TEST_F(Pemt, GradientsAreThoseOfTheLoss) {
    const std::vector<int32_t> targets{21, 22, 23, 24, 25, 26, 101, 102, 103};
    for (const char* expert : {"lora", "bottleneck"})
        for (const bool detached : {false, true}) {
            const auto skills =
                target({{"ts_weight", 3.0}, {"prompt_dropout", 0.0}, {"ts_detach_output", detached}}, expert);
            const auto loss = [&](bool auxiliary) {
                tiny::Run out = tiny::run(*skills, {{one, 4, 0}, {other, 2, 1}}, nullptr, Mode::train);
                at::Tensor sum = tiny::backbone()->token_nll(out.hidden, targets).sum();
                const at::Tensor extra = skills->method().auxiliary_loss(*out.adaptation);
                EXPECT_GT(extra.item<double>(), 0.1);
                return auxiliary ? sum + extra : sum;
            };
            const bool whole = !detached;  // a detached term is no gradient of anything
            loss(whole).backward();
            const std::string layer = "model.layers.0.mlp.down_proj.";
            for (const std::string& name :
                 {std::string("prompt.0"), std::string("prompt.1"), layer + "gate_weight",
                  layer + "adapter_down_weight", layer + "adapter_down_bias", layer + "adapter_up_weight",
                  layer + "adapter_up_bias", std::string("model.layers.1.input_layernorm.weight"),
                  std::string("model.norm.weight")}) {
                Parameter& p = tiny::parameter(*skills, name);
                ASSERT_TRUE(p.value.grad().defined()) << name;
                const at::NoGradGuard no_gradients;
                const double length = p.value.grad().norm().item<double>();
                ASSERT_GT(length, 0.0) << name;
                const at::Tensor direction = p.value.grad() / length;
                const double step = std::min(0.006, 0.03 / length);
                p.value.add_(direction, step);
                const double up = loss(whole).item<double>();
                p.value.add_(direction, -2.0 * step);
                const double down = loss(whole).item<double>();
                p.value.add_(direction, step);
                EXPECT_NEAR((up - down) / (2.0 * step), length, 0.02 * length + 5e-3)
                    << expert << " " << name;
            }
            for (const Parameter& p : skills->method().parameters())
                EXPECT_EQ(p.value.grad().defined(), p.trainable) << p.name;
        }
}

}  // namespace
}  // namespace polyad
