// SPDX-License-Identifier: Apache-2.0
// Rows that share beginnings: the layout, and that loss and gradients are those of rows laid out whole.
#include "data/shared_prefix.h"

#include <ATen/TensorOperators.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

#include "tiny_skillsets.h"
#include "training/packed_forward.h"
#include "training/trainer.h"

namespace polyad {
namespace {

using Ids = std::vector<int32_t>;

/// `count` ids that tell where they come from.
Ids ids(int32_t seed, int count) {
    Ids out;
    for (int i = 0; i < count; ++i) out.push_back((seed * 31 + i * 7) % 50 + 3);
    return out;
}
Ids operator+(Ids a, const Ids& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

/// Two tasks with a beginning in common, and within each a longer one; two equal prompts.
std::vector<EncodedExample> examples() {
    const Ids all = ids(1, 11), first = all + ids(2, 14), second = all + ids(3, 9);
    return {{first + ids(4, 6), {5, 6, 2}},       {second + ids(5, 3), {7, 2}}, {first + ids(6, 1), {8, 2}},
            {second + ids(5, 3), {9, 10, 11, 2}}, {ids(9, 20), {4, 2}},         {first, {12, 2}},
            {first + ids(4, 6), {13, 2}}};
}
const std::vector<int> task_of = {0, 1, 0, 1, 1, 0, 0};

std::vector<const EncodedExample*> pointers(const std::vector<EncodedExample>& rows) {
    std::vector<const EncodedExample*> out;
    for (const EncodedExample& row : rows) out.push_back(&row);
    return out;
}

/// Tokens and targets of a row's whole line.
std::pair<Ids, Ids> line(const Batch& batch, int row) {
    Ids tokens, targets;
    for (int32_t r = row; r >= 0; r = batch.parent.empty() ? -1 : batch.parent[static_cast<size_t>(r)]) {
        const auto begin = batch.row_begin[static_cast<size_t>(r)],
                   end = batch.row_begin[static_cast<size_t>(r) + 1];
        tokens.insert(tokens.begin(), batch.tokens.begin() + begin, batch.tokens.begin() + end);
        targets.insert(targets.begin(), batch.targets.begin() + begin, batch.targets.begin() + end);
    }
    return {tokens, targets};
}

void expect_same_rows(const SharedBatch& shared, const std::vector<EncodedExample>& rows) {
    const Batch whole = pack(pointers(rows));
    std::vector<int> seen(rows.size(), 0);
    for (int b = 0; b < shared.batch.rows(); ++b) {
        const auto [tokens, targets] = line(shared.batch, b);
        const int e = shared.example[static_cast<size_t>(b)];
        if (std::none_of(targets.begin(), targets.end(), [](int32_t t) { return t >= 0; })) continue;
        ++seen[static_cast<size_t>(e)];
        const auto [whole_tokens, whole_targets] = line(whole, e);
        EXPECT_EQ(tokens, whole_tokens) << e;
        EXPECT_EQ(targets, whole_targets) << e;
    }
    EXPECT_EQ(seen, std::vector<int>(rows.size(), 1));
    EXPECT_EQ(shared.batch.size() + shared.saved, whole.size());
}

TEST(SharedPrefix, EveryLineIsTheRowLaidOutWhole) {
    const auto rows = examples();
    const SharedBatch all = pack_shared(pointers(rows), std::vector<int>(rows.size(), 0));
    expect_same_rows(all, rows);
    // 11 tokens five times less, then 13 of task 0 (the shortest prompt keeps its last) three times less, the
    // equal prompts of task 1 (12 - 1) once and those of task 0 behind the 24th (7 - 1 is below the shortest)
    // not at all.
    EXPECT_EQ(all.saved, 11 * 5 + 13 * 3 + 11);
    const SharedBatch apart = pack_shared(pointers(rows), task_of);
    expect_same_rows(apart, rows);
    EXPECT_EQ(apart.saved, all.saved - 11);
    EXPECT_EQ(apart.batch.prompt_length.size(), apart.example.size());
    std::vector<int> alone;
    for (size_t i = 0; i < rows.size(); ++i) alone.push_back(static_cast<int>(i));
    const SharedBatch none = pack_shared(pointers(rows), alone);
    EXPECT_EQ(none.saved, 0);
    EXPECT_TRUE(none.batch.parent.empty());
    EXPECT_EQ(none.batch.tokens, pack(pointers(rows)).tokens);
}

class SharedForward : public testing::Test {
  protected:
    void SetUp() override { SKIP_WITHOUT_TINY_MODEL(); }

    static std::vector<TrainingRow> rows() {
        std::vector<TrainingRow> out;
        const auto all = examples();
        for (size_t i = 0; i < all.size(); ++i)
            out.push_back({std::make_shared<const EncodedExample>(all[i]), task_of[i], task_of[i], 0, {}});
        return out;
    }

    struct Result {
        double loss = 0;
        int size = 0;
        std::map<std::string, at::Tensor> gradients;
    };
    static Result run(const Skillset& skills, bool share, int64_t activation_bytes = 0) {
        return run(skills, {rows()}, share, activation_bytes);
    }
    static Result run(const Skillset& skills, const std::vector<std::vector<TrainingRow>>& parts, bool share,
                      int64_t activation_bytes = 0) {
        Method& method = skills.method();
        Generator noise(4);
        Result out;
        for (const auto& part : parts) {
            PackedForward forward(*skills.backbone(), method, part, Mode::train, &noise, share);
            forward.activation_bytes = activation_bytes;
            const auto adaptation = method.adapt(forward.route);
            at::Tensor loss = forward.answer_nll(*skills.backbone(), *adaptation, 0.0).sum();
            if (const at::Tensor extra = method.auxiliary_loss(*adaptation); extra.defined())
                loss = loss + extra;
            loss.backward();
            out.loss += loss.item<double>();
            out.size += forward.batch.size();
        }
        for (Parameter& p : method.parameters()) {
            if (p.value.grad().defined()) out.gradients[p.name] = p.value.grad().clone();
            p.value.mutable_grad() = at::Tensor();
        }
        return out;
    }
};

TEST_F(SharedForward, GradientsAreThoseOfWholeRows) {
    const std::vector<std::pair<Json, bool>> methods = {
        {{{"method", "lora"}}, true},
        {{{"method", "lora"}, {"use_dora", true}}, true},
        {{{"method", "lora"}, {"lora_dropout", 0.3}}, false},
        {{{"method", "lora_set"}}, true},
        {{{"method", "poly"}, {"skill_sampling", "sigmoid"}}, true},
        {{{"method", "poly"}}, false},  // noise of its own for every row
        {{{"method", "mhr"}, {"n_splits", 4}, {"train", "uniform"}}, true},
        {{{"method", "cpoly"}, {"common_noise", "none"}, {"specific_routing", "learned_diag"}}, true},
        {{{"method", "cpoly"}}, false},
        {{{"method", "private_lora"}}, true},
        {{{"method", "moelora_task"}, {"rank", 8}, {"n_experts", 4}}, true},
        {{{"method", "molora"}, {"n_experts", 3}}, true},
        {{{"method", "molora"}, {"n_experts", 3}, {"top_k", 2}, {"balance_loss", 3.0}, {"z_loss", 0.5}},
         true},
        {{{"method", "mor1e"}, {"r1", 2}, {"r2", 3}}, true},
        {{{"method", "mixlora"}, {"n_experts", 4}, {"balance_weight", 3.0}}, true},
        {{{"method", "mixlora"}, {"n_experts", 4}, {"top_p", 0.7}, {"balance_weight", 3.0}}, true},
        {{{"method", "xlora"}, {"n_experts", 3}}, true},
        {{{"method", "xlora"}, {"n_experts", 3}, {"answer_scalings", "token"}, {"layerwise_scalings", true}},
         true},
        {{{"method", "xlora"}, {"n_experts", 3}, {"xlora_depth", 2}, {"xlora_size", 16}}, false},  // dropout
        {{{"method", "orchmoe"}}, false},
    };
    for (const auto& [config, shares] : methods) {
        SCOPED_TRACE(config.dump());
        const auto skills = tiny::skillset(config, *tiny::dataset());
        tiny::shake(*skills, 8, 0.05);
        const Result whole = run(*skills, false), shared = run(*skills, true);
        EXPECT_EQ(shared.size < whole.size, shares);
        EXPECT_NEAR(shared.loss, whole.loss, 1e-5 * std::abs(whole.loss));
        ASSERT_EQ(shared.gradients.size(), whole.gradients.size());
        double top = 0;
        for (const auto& [name, gradient] : whole.gradients)
            top = std::max(top, gradient.abs().max().item<double>());
        EXPECT_GT(top, 1e-3);
        for (const auto& [name, gradient] : whole.gradients)
            EXPECT_LE((shared.gradients.at(name) - gradient).abs().max().item<double>(), 1e-5 * top) << name;
    }
}

TEST_F(SharedForward, ActivationsMadeAgainGiveTheSameBits) {
    for (const char* method : {"lora", "cpoly", "molora", "mixlora"}) {
        SCOPED_TRACE(method);
        const auto skills = tiny::skillset({{"method", method}}, *tiny::dataset());
        tiny::shake(*skills, 8, 0.05);
        const Result kept = run(*skills, true);
        for (const int64_t bytes : {int64_t{1}, int64_t{200'000}}) {
            const Result again = run(*skills, true, bytes);
            EXPECT_EQ(again.loss, kept.loss);
            for (const auto& [name, gradient] : kept.gradients)
                EXPECT_TRUE(again.gradients.at(name).equal(gradient)) << name;
        }
    }
}

TEST_F(SharedForward, PartsWithinABudgetAddUpToTheWhole) {
    const std::vector<std::pair<Json, bool>> methods = {
        {{{"method", "lora"}}, true},
        {{{"method", "poly"}, {"skill_sampling", "sigmoid"}}, true},
        {{{"method", "molora"}, {"n_experts", 3}, {"balance_loss", 0.1}}, false},  // a loss over the batch
        {{{"method", "mixlora"}, {"n_experts", 4}}, false},
        {{{"method", "mixlora"}, {"n_experts", 4}, {"balance_weight", 0.0}}, true},
        {{{"method", "xlora"}, {"n_experts", 3}}, true},
        {{{"method", "orchmoe"}}, false},
    };
    const auto all = rows();
    for (const auto& [config, splits] : methods) {
        SCOPED_TRACE(config.dump());
        const auto skills = tiny::skillset(config, *tiny::dataset());
        tiny::shake(*skills, 8, 0.05);
        const auto parts_of = [&](int64_t bytes) {
            return plan_forwards(*skills->backbone(), skills->method(), all, true, bytes).parts;
        };
        EXPECT_EQ(parts_of(int64_t{1} << 40).size(), 1u);
        EXPECT_EQ(parts_of(1).size() > 3, splits);
        int64_t bytes = int64_t{1} << 24;
        while (splits && parts_of(bytes).size() < 3) bytes = bytes * 3 / 4;
        const auto parts = parts_of(bytes);
        std::multiset<const EncodedExample*> wanted, got;
        for (const TrainingRow& row : all) wanted.insert(row.example.get());
        for (const auto& part : parts)
            for (const TrainingRow& row : part) got.insert(row.example.get());
        EXPECT_EQ(got, wanted);
        if (!splits) continue;
        const Result whole = run(*skills, {all}, true), sum = run(*skills, parts, true);
        EXPECT_NEAR(sum.loss, whole.loss, 1e-5 * std::abs(whole.loss));
        double top = 0;
        for (const auto& [name, gradient] : whole.gradients)
            top = std::max(top, gradient.abs().max().item<double>());
        for (const auto& [name, gradient] : whole.gradients)
            EXPECT_LE((sum.gradients.at(name) - gradient).abs().max().item<double>(), 1e-5 * top) << name;
    }
}

TEST_F(SharedForward, ALittleTooMuchIsMadeAgainInOneForward) {
    const auto skills = tiny::skillset({{"method", "lora"}}, *tiny::dataset());
    const auto plan = [&](int64_t bytes) {
        return plan_forwards(*skills->backbone(), skills->method(), rows(), true, bytes);
    };
    const int64_t enormous = int64_t{1} << 40;
    // All that the forward keeps, less what it can make again, is the smallest budget without parts.
    const Backbone& backbone = *skills->backbone();
    const int64_t size =
        PackedForward(backbone, skills->method(), rows(), Mode::train, nullptr, true).batch.size();
    int64_t elements = backbone.info().layers * backbone.info().width;
    for (const Site& site : backbone.sites()) elements += site.d_out;
    const int64_t whole = size * elements * static_cast<int64_t>(at::elementSize(backbone.compute_dtype()));
    const int64_t least = whole - backbone.spared_bytes(size);
    EXPECT_LT(least, whole);
    EXPECT_EQ(plan(least).parts.size(), 1u);
    EXPECT_GT(plan(least - 1).parts.size(), 1u);
    int64_t splits = 1;  // the largest power of two that needs parts
    while (plan(splits * 2).parts.size() > 1) splits *= 2;
    EXPECT_EQ(plan(splits * 2).activation_bytes, splits * 2);
    EXPECT_EQ(plan(enormous).parts.size(), 1u);
    // Parts are within the budget by themselves: none of them makes anything again.
    const ForwardPlan parts = plan(splits);
    EXPECT_EQ(parts.activation_bytes, splits);
    EXPECT_GT(parts.parts.size(), 1u);
    EXPECT_EQ(run(*skills, parts.parts, true, parts.activation_bytes).loss,
              run(*skills, parts.parts, true).loss);
}

TEST_F(SharedForward, BadParentsAreRefused) {
    const auto backbone = tiny::backbone();
    const auto refused = [&](const Ids& parent, Code code, const char* part, KvCache* cache = nullptr) {
        Batch batch;
        batch.tokens = {5, 6, 7, 8};
        batch.row_begin = {0, 2, 4};
        batch.prompt_length = {2, 2};
        batch.parent = parent;
        ForwardOptions options;
        options.cache = cache;
        if (cache) options.slots = {0, 1};
        EXPECT_REFUSED(backbone->hidden(batch, options), code, part);
    };
    refused({-1, 1}, Code::invalid_argument, "an earlier row");
    refused({-2, 0}, Code::invalid_argument, "an earlier row");
    refused({-1}, Code::invalid_argument, "1 entries for 2 rows");
    const auto cache = backbone->make_cache(2, 16);
    refused({-1, 0}, Code::unsupported, "cache", cache.get());
}

/// Rows long enough to share, over both tasks.
std::shared_ptr<const Dataset> long_rows() {
    std::string text;
    for (const char* task : {"up", "down"})
        for (const char* input : {"a", "b", "the dog", "the quick fox"})
            text += std::string(R"({"task": ")") + task + R"(", "instruction": "Say )" + task +
                    R"( whatever comes.", "input": ")" + input + R"(", "output": ")" + task +
                    "\", \"split\": \"train\"}\n";
    return tiny::dataset(text);
}

TEST_F(SharedForward, TrainingIsRepeatableAndResumesBitwise) {
    const auto data = long_rows();
    Json config = tiny::method("poly");
    config["skill_sampling"] = "sigmoid";
    const Json training = {{"max_steps", 6}, {"batch_size", 6}, {"seed", 5}, {"activation_memory_mib", 1}};
    const auto file = std::filesystem::temp_directory_path() /
                      ("polyad_shared_prefix_" + std::to_string(getpid()) + ".checkpoint");
    const auto whole = tiny::skillset(config, *data);
    Trainer uninterrupted(whole, data, training);
    for (int i = 0; i < 3; ++i) uninterrupted.step();
    uninterrupted.save_checkpoint(file);
    while (!uninterrupted.progress().done) uninterrupted.step();
    const auto again = tiny::skillset(config, *data);
    Trainer resumed(again, data, training);
    resumed.resume(file);
    while (!resumed.progress().done) resumed.step();
    std::filesystem::remove(file);
    EXPECT_EQ(tiny::weights(*again), tiny::weights(*whole));

    Json apart = training;
    apart["share_prefixes"] = false;
    const auto other = tiny::skillset(config, *data);
    Trainer unshared(other, data, apart);
    while (!unshared.progress().done) unshared.step();
    EXPECT_NEAR(unshared.progress().loss, uninterrupted.progress().loss, 1e-3);
    EXPECT_EQ(unshared.progress().tokens, uninterrupted.progress().tokens);
}

}  // namespace
}  // namespace polyad
