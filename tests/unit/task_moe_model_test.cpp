// SPDX-License-Identifier: Apache-2.0
// Task-level MoE on a real (tiny) model: both kinds of experts, trained, saved, served.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/tensor.h>
#include <unistd.h>

#include <algorithm>

#include "serving/generate.h"
#include "tiny_skillsets.h"
#include "training/task_vectors.h"
#include "training/trainer.h"

namespace polyad {
namespace {

namespace fs = std::filesystem;

Json moe(const char* kind, const Json& more = Json::object()) {
    Json config = tiny::method("task_moe");
    config.erase("rank");
    if (std::string(kind) == "lora") config["rank"] = 4;
    config["expert_kind"] = kind;
    config["n_experts"] = 3;
    config["task_vec_dim"] = 8;
    config["router_hidden"] = 4;
    config.update(more);
    return config;
}

class TaskMoeModel : public testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        SKIP_WITHOUT_TINY_MODEL();
        data_ = tiny::dataset();
    }
    std::shared_ptr<Skillset> shaken(const Json& more = Json::object()) const {
        const auto skills = tiny::skillset(moe(GetParam(), more), *data_);
        // Copies stay near the model: its own size of weights, not noise.
        tiny::shake(*skills, 1, std::string(GetParam()) == "layer" ? 0.05 : 0.5);
        for (Parameter& p : skills->method().parameters())
            if (p.name == "router_steps") static_cast<float*>(p.value.data_ptr())[0] = 0.0f;
        skills->method().parameters_changed();
        return skills;
    }
    static GenerationInput input(const std::shared_ptr<const Skillset>& skills, int task,
                                 std::vector<int32_t> prompt) {
        GenerationInput out;
        out.skillset = skills;
        out.task = task;
        out.prompt = std::move(prompt);
        out.sampling.max_tokens = 8;
        out.sampling.ignore_eos = true;
        return out;
    }
    /// Logits after the last token of each row, by one forward without a cache.
    static at::Tensor uncached(const Skillset& skills, const std::vector<std::vector<int32_t>>& rows,
                               const std::vector<int32_t>& tasks) {
        const at::NoGradGuard no_grad;
        Batch batch;
        std::vector<int64_t> last;
        batch.row_begin = {0};
        for (const auto& row : rows) {
            batch.tokens.insert(batch.tokens.end(), row.begin(), row.end());
            batch.row_begin.push_back(batch.size());
            batch.prompt_length.push_back(static_cast<int32_t>(row.size()));
            last.push_back(batch.size() - 1);
        }
        RouteInput route;
        route.row_begin = batch.row_begin;
        route.prompt_length = batch.prompt_length;
        route.task_ids = tasks;
        const auto adaptation = skills.method().adapt(route);
        ForwardOptions options;
        options.adaptation = adaptation.get();
        return tiny::backbone()->logits(
            tiny::backbone()->hidden(batch, options).index_select(0, at::tensor(last, at::kLong)));
    }

    std::shared_ptr<const Dataset> data_;
};

TEST_P(TaskMoeModel, CachedGenerationEqualsForwardsWithoutACache) {
    for (const char* route : {"argmax", "softmax", "sample"}) {
        SCOPED_TRACE(route);
        const auto skills = shaken({{"eval_route", route}});
        const std::vector<std::vector<int32_t>> prompts = {{3, 4, 5, 6}, {7, 8}, {9, 3, 5}};
        const std::vector<int32_t> tasks = {0, 1, 1};
        std::vector<GenerationInput> inputs;
        for (size_t b = 0; b < prompts.size(); ++b) inputs.push_back(input(skills, tasks[b], prompts[b]));
        const std::vector<Generated> together = generate(tiny::backbone(), inputs);
        for (size_t b = 0; b < prompts.size(); ++b) {
            // A row of the batch is the row alone, and each of its tokens the best one by a forward of its
            // own.
            EXPECT_EQ(together[b].tokens, generate(tiny::backbone(), {inputs[b]}).front().tokens);
            std::vector<int32_t> read = prompts[b];
            for (const int32_t token : together[b].tokens) {
                const at::Tensor logits = uncached(*skills, {read}, {tasks[b]});
                EXPECT_EQ(at::argmax(logits, 1).item<int64_t>(), token);
                read.push_back(token);
            }
        }
        EXPECT_NE(together[0].tokens, together[1].tokens);
    }
}

TEST_P(TaskMoeModel, ARowOfAMixedBatchEqualsTheRowAlone) {
    const auto skills = shaken({{"eval_route", "softmax"}});
    const std::vector<std::vector<int32_t>> rows = {{3, 4, 5, 6}, {7, 8}, {9, 3, 5}};
    const std::vector<int32_t> tasks = {1, 0, 1};
    const at::Tensor together = uncached(*skills, rows, tasks);
    for (size_t b = 0; b < rows.size(); ++b) {
        const at::Tensor alone = uncached(*skills, {rows[b]}, {tasks[b]});
        EXPECT_LT((together[static_cast<int64_t>(b)] - alone[0]).abs().max().item<float>(), 1e-4);
    }
}

TEST_P(TaskMoeModel, StartsAsTheBackbone) {
    const auto skills = tiny::skillset(moe(GetParam()), *data_);
    const std::vector<int32_t> row = {3, 4, 5, 6};
    Batch batch{row, {0, 4}, {4}, {}, {}, {}, {}};
    const at::NoGradGuard no_grad;
    const at::Tensor bare = tiny::backbone()->logits(tiny::backbone()->hidden(batch)).narrow(0, 3, 1);
    EXPECT_LT((uncached(*skills, {row}, {0}) - bare).abs().max().item<float>(), 1e-3);
}

TEST_P(TaskMoeModel, LearnsAndComesBackBitForBit) {
    const fs::path file =
        fs::temp_directory_path() / (std::string("task_moe_") + GetParam() + std::to_string(getpid()));
    const Json training = {{"max_steps", 24},
                           {"batch_size", 3},
                           {"learning_rate", 0.01},
                           {"seed", 5},
                           {"validation_examples", 0}};
    const auto skills = tiny::skillset(moe(GetParam()), *data_);
    Trainer trainer(skills, data_, training);
    const double first = trainer.step().loss;
    for (int i = 1; i < 10; ++i) trainer.step();
    trainer.save_checkpoint(file);
    while (!trainer.progress().done) trainer.step();
    EXPECT_LT(trainer.progress().loss, 0.7 * first);

    const auto again = tiny::skillset(moe(GetParam()), *data_);
    Trainer resumed(again, data_, training);
    resumed.step();
    resumed.resume(file);
    while (!resumed.progress().done) resumed.step();
    EXPECT_EQ(tiny::weights(*again), tiny::weights(*skills));
    for (const Parameter& p : again->method().parameters())
        if (p.name == "router_steps") {
            EXPECT_EQ(p.value.item<float>(), 24.0f);
        }

    skills->save(file);
    const auto loaded = Skillset::load(tiny::backbone(), file);
    EXPECT_EQ(tiny::weights(*loaded), tiny::weights(*skills));
    EXPECT_EQ(loaded->config(), skills->config());
    for (int task = 0; task < 2; ++task) {
        EXPECT_EQ(loaded->method().task_weights(task), skills->method().task_weights(task));
        EXPECT_EQ(generate(tiny::backbone(), {input(loaded, task, {3, 4, 5})}).front().tokens,
                  generate(tiny::backbone(), {input(skills, task, {3, 4, 5})}).front().tokens);
    }
    fs::remove(file);
}

TEST_P(TaskMoeModel, TakesWeightsGiven) {
    const auto skills = shaken();
    GenerationInput row = input(skills, -1, {3, 4, 5});
    row.weights = {0.0f, 1.0f, 0.0f};
    EXPECT_EQ(generate(tiny::backbone(), {row}).front().tokens.size(), 8u);
    row.weights = {0.5f, 1.0f, 0.0f};
    if (std::string(GetParam()) == "layer") {
        EXPECT_REFUSED(generate(tiny::backbone(), {row}), Code::invalid_argument, "sum to 1");
    }
}

INSTANTIATE_TEST_SUITE_P(Experts, TaskMoeModel, testing::Values("lora", "layer"),
                         [](const auto& kind) { return kind.param; });

TEST(TaskMoeLayers, SizesAndLayersAreChecked) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto data = tiny::dataset();
    EXPECT_REFUSED(tiny::skillset(moe("layer", {{"expert_memory_gib", 0.001}}), *data), Code::invalid_config,
                   "million parameters");
    EXPECT_REFUSED(tiny::skillset(moe("layer", {{"vanilla_layers", {99}}}), *data), Code::invalid_config,
                   "99");
    EXPECT_REFUSED(tiny::skillset(moe("layer", {{"rank", 4}}), *data), Code::invalid_config, "rank");
    const auto some = tiny::skillset(moe("layer", {{"vanilla_layers", {0}}}), *data);
    for (const Parameter& p : some->method().parameters())
        EXPECT_EQ(p.name.find("layers.0."), std::string::npos) << p.name;
    EXPECT_TRUE(some->method().exclusive());
}

/// Copies that are the layer itself, in every family: norms, biases and both streams are answered for.
TEST(TaskMoeLayers, CopiesOfEveryFamilyStandForItsLayers) {
    const at::NoGradGuard no_grad;
    int families = 0;
    for (const char* name : {"llama", "qwen2", "qwen3", "t5_v10", "t5_v11", "bart"}) {
        const fs::path folder = fs::path(POLYAD_SHARED_DIR) / "fixtures/models" / name;
        if (!fs::exists(folder)) continue;
        SCOPED_TRACE(name);
        ++families;
        BackboneOptions precise;
        precise.precision = Precision::fp32;
        const auto backbone = Backbone::open(folder, precise);
        MethodContext context;
        context.sites = backbone->sites();
        context.backbone = backbone.get();
        context.tasks = 2;
        Json config = moe("layer", {{"init_eps", 0.0}});
        for (const char* of_the_skillset : {"seed", "prompt"}) config.erase(of_the_skillset);
        const auto method = make_method(config, context);
        for (const NormSite& norm : backbone->norms()) {
            const bool copied =
                std::any_of(method->parameters().begin(), method->parameters().end(),
                            [&](const Parameter& p) { return p.name == norm.path + ".expert_2"; });
            EXPECT_EQ(copied, norm.layer >= 0) << norm.path;
        }
        Batch batch;
        if (backbone->info().encoder_decoder) {
            batch.source = {3, 4, 5, 6, 7, 8};
            batch.source_begin = {0, 2, 6};
        }
        batch.tokens = {5, 9, 4, 7, 3};
        batch.row_begin = {0, 3, 5};
        batch.prompt_length = {3, 2};
        const at::Tensor bare = backbone->hidden(batch);
        RouteInput route;
        route.row_begin = batch.row_begin;
        route.source_begin = batch.source_begin;
        route.prompt_length = batch.prompt_length;
        route.task_ids = {0, 1};
        for (const std::vector<std::vector<float>>& weights :
             {std::vector<std::vector<float>>{{0, 1, 0}, {1, 0, 0}}, {{0.5f, 0.25f, 0.25f}, {0, 0, 1}}}) {
            route.weights = weights;
            const auto adaptation = method->adapt(route);
            ForwardOptions options;
            options.adaptation = adaptation.get();
            EXPECT_LT((backbone->hidden(batch, options) - bare).abs().max().item<float>(), 1e-4);
        }
        // Any other expert would be seen.
        for (Parameter& p : method->parameters())
            if (p.name.ends_with(".expert_1")) p.value.mul_(1.5);
        route.weights = {{0, 1, 0}, {1, 0, 0}};
        const auto adaptation = method->adapt(route);
        ForwardOptions options;
        options.adaptation = adaptation.get();
        const at::Tensor moved = (backbone->hidden(batch, options) - bare).abs();
        EXPECT_GT(moved.narrow(0, 0, 3).max().item<float>(), 1e-3);
        EXPECT_LT(moved.narrow(0, 3, 2).max().item<float>(), 1e-4);
    }
    if (families == 0) GTEST_SKIP() << "no fixtures at " << POLYAD_SHARED_DIR;
}

/// Train, save, load, same answers: Super-NaturalInstructions tasks, text vectors, both kinds of experts.
TEST(TaskMoeEndToEnd, SuperNaturalInstructions) {
    SKIP_WITHOUT_TINY_MODEL();
    const fs::path folder = fs::path(POLYAD_SHARED_DIR) / "superni-mini";
    if (!fs::exists(folder)) GTEST_SKIP() << "no tasks at " << folder;
    DatasetOptions few;
    few.max_examples_per_task = 4;
    const auto data = std::make_shared<const Dataset>(Dataset::open(folder, few));
    for (const char* kind : {"lora", "layer"}) {
        SCOPED_TRACE(kind);
        Json config = moe(kind, {{"task_vectors", "text"}, {"task_vector_options", {{"examples", 2}}}});
        config.erase("task_vec_dim");
        config["prompt"] = {{"style", "plain"}, {"max_tokens", 128}, {"max_answer_tokens", 64}};
        const auto skills = create_skillset(tiny::backbone(), data->tasks(), config);
        Trainer trainer(
            skills, data,
            {{"max_steps", 6}, {"batch_size", 2}, {"learning_rate", 0.003}, {"validation_examples", 0}});
        while (!trainer.progress().done) trainer.step();
        const std::string bundle = skills->save_to_memory();
        const auto loaded = Skillset::load(tiny::backbone(), Bytes::copy_of(bundle, "bundle"));
        std::vector<GenerationInput> before, after;
        for (size_t t = 0; t < data->tasks().size(); ++t) {
            const Task& task = data->tasks()[t];
            GenerationInput row;
            row.skillset = skills;
            row.task = static_cast<int>(t);
            row.prompt = skills->prompts().prompt(task, task.examples(Split::train).front().input);
            row.sampling.max_tokens = 6;
            before.push_back(row);
            row.skillset = loaded;
            after.push_back(row);
        }
        const auto a = generate(tiny::backbone(), before), b = generate(tiny::backbone(), after);
        for (size_t t = 0; t < a.size(); ++t) EXPECT_EQ(a[t].tokens, b[t].tokens) << data->tasks()[t].name;
    }
}

TEST(TaskMoeLayers, IdenticalCopiesDoNotDependOnTheRoute) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto skills = tiny::skillset(moe("layer", {{"init_eps", 0.0}}), *tiny::dataset());
    GenerationInput row;
    row.skillset = skills;
    row.prompt = {3, 4, 5, 6};
    row.sampling.max_tokens = 8;
    row.sampling.ignore_eos = true;
    row.weights = {0.0f, 0.0f, 1.0f};
    const auto one = generate(tiny::backbone(), {row}).front().tokens;
    row.weights = {0.25f, 0.5f, 0.25f};
    EXPECT_EQ(generate(tiny::backbone(), {row}).front().tokens, one);
}

}  // namespace
}  // namespace polyad
