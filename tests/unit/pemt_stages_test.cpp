// SPDX-License-Identifier: Apache-2.0
// PEMT from stage to stage: bundles, tasks that come later, training on real tasks, and what is refused.
#include <cstring>

#include "io/bundle.h"
#include "pemt_fixture.h"
#include "serving/generate.h"
#include "training/trainer.h"

namespace polyad {
namespace {

namespace fs = std::filesystem;

class PemtStages : public tiny::Stages {
  protected:
    std::shared_ptr<Skillset> create(const Json& config) const {
        return tiny::skillset(config, *tiny::dataset(tiny::target_rows()));
    }
    /// The target configuration with one key changed.
    Json with(const char* key, const Json& value) const {
        Json config = target_config((folder_ / "sources.polyad").string());
        config[key] = value;
        return config;
    }
};

std::shared_ptr<Skillset> load(const std::string& bytes) {
    return Skillset::load(tiny::backbone(), Bytes::copy_of(bytes, "test.polyad"));
}

void expect_equal(const Skillset& a, const Skillset& b) {
    const std::vector<Parameter>&p = a.method().parameters(), &q = b.method().parameters();
    ASSERT_EQ(p.size(), q.size());
    for (size_t i = 0; i < p.size(); ++i) {
        EXPECT_EQ(p[i].name, q[i].name);
        ASSERT_EQ(p[i].value.sizes(), q[i].value.sizes()) << p[i].name;
        EXPECT_EQ(std::memcmp(p[i].value.const_data_ptr<float>(), q[i].value.const_data_ptr<float>(),
                              static_cast<size_t>(p[i].value.numel()) * 4),
                  0)
            << p[i].name;
        EXPECT_EQ(p[i].trainable, q[i].trainable) << p[i].name;
    }
    EXPECT_EQ(a.config(), b.config());
}

TEST_F(PemtStages, BothReturnFromABundleBitForBit) {
    for (const char* expert : {"lora", "bottleneck"})
        for (const auto& skills : {sources(expert), target(Json::object(), expert)}) {
            const std::string bytes = skills->save_to_memory();
            const auto again = load(bytes);
            expect_equal(*skills, *again);
            expect_equal(*skills, *skills->snapshot());
            EXPECT_EQ(again->save_to_memory(), bytes);
        }
}

TEST_F(PemtStages, TheSecondStandsAloneWithTheFirstsTensors) {
    const auto first = sources();
    const std::string bundle = saved(*first);
    const auto second = create(target_config(bundle));
    fs::remove(bundle);
    const Json config = load(second->save_to_memory())->config();
    ASSERT_EQ(config.at("sources").size(), 2u);
    EXPECT_EQ(config.at("sources")[0].at("name"), "down");
    EXPECT_EQ(config.at("sources")[1].at("name"), "up");
    EXPECT_EQ(config.at("source_rank"), 4);
    EXPECT_EQ(config.at("source_alpha"), 3.0);
    for (const char* part : {"lora_a", "lora_b"}) {
        const std::string site = "model.layers.1.mlp.down_proj.";
        EXPECT_EQ(tiny::largest(tiny::parameter(*first, site + part).value,
                                tiny::parameter(*second, site + "source_" + part).value),
                  0.0);
    }
    for (const char* i : {"0", "1"})
        EXPECT_EQ(tiny::largest(tiny::parameter(*first, text("prompt.", i)).value,
                                tiny::parameter(*second, text("source_prompt.", i)).value),
                  0.0);
    EXPECT_EQ(second->method().skill_count(), 2);
}

TEST_F(PemtStages, SourcesComeFromSeveralBundlesAndMayBeChosen) {
    const std::string a = saved(*sources(), "a.polyad");
    const auto more = tiny::skillset(tiny::source_config(), *tiny::dataset(tiny::target_rows()));
    const std::string b = saved(*more, "b.polyad");
    const auto skills = create(with("sources", {b, {{"bundle", a}, {"tasks", {"up"}}}}));
    const Json config = skills->config();
    std::vector<std::string> names;
    for (const Json& source : config.at("sources")) names.push_back(source.at("name"));
    EXPECT_EQ(names, (std::vector<std::string>{"left", "right", "up"}));
}

TEST_F(PemtStages, ATaskComesLater) {
    const auto first = load(sources()->save_to_memory()), second = load(target()->save_to_memory());
    Task task;
    task.name = "later";
    task.instruction = "Say what comes later.";
    const at::NoGradGuard no_gradients;
    for (const auto& skills : {first, second}) {
        const std::vector<tiny::Row> row{{{20, 21, 22}, 3, 1}};
        const at::Tensor before = tiny::run(*skills, row).hidden;
        EXPECT_EQ(skills->add_task(task, "fresh", 7), 2);
        expect_equal(*skills, *load(skills->save_to_memory()));
        expect_equal(*skills, *skills->snapshot());
        EXPECT_EQ(tiny::largest(tiny::run(*skills, row).hidden, before),
                  0.0);  // the others stay as they were
        const auto ids = tiny::backbone()->tokenizer()->encode(task.instruction, false);
        EXPECT_EQ(skills->method().prefix_tokens(2),
                  static_cast<int>(std::min<size_t>(ids.size(), skills == first ? 6 : 7)));
        EXPECT_EQ(tiny::run(*skills, {{{20, 21, 22}, 3, 2}}).hidden.size(0), 3);
        Task silent;
        silent.name = "silent";
        EXPECT_REFUSED(skills->add_task(silent, "fresh", 7), Code::invalid_config, "empty_prompt");
        EXPECT_EQ(skills->tasks().size(), 3u);
    }
    EXPECT_EQ(second->method().task_weights(2), (std::vector<float>{0.5f, 0.5f}));
}

TEST_F(PemtStages, TrainingMovesTheTargetAndNeverTheSources) {
    const auto data = tiny::dataset(tiny::target_rows());
    const Json training = {{"max_steps", 25}, {"batch_size", 4}, {"learning_rate", 0.01}, {"seed", 5}};
    const auto fresh = [&] { return create(target_config(saved(*sources()))); };
    const auto skills = fresh(), twin = fresh();
    Trainer trainer(skills, data, training), same(twin, data, training);
    const double first = trainer.step().loss;
    while (!trainer.progress().done) trainer.step();
    EXPECT_LT(trainer.progress().loss, 0.7 * first);
    while (!same.progress().done) same.step();
    EXPECT_EQ(tiny::weights(*skills), tiny::weights(*twin));  // dropout of the prompt included
    const auto start = fresh();
    for (const Parameter& p : start->method().parameters()) {
        const double moved = tiny::largest(p.value, tiny::parameter(*skills, p.name).value);
        if (p.trainable)
            EXPECT_GT(moved, 0.0) << p.name;
        else
            EXPECT_EQ(moved, 0.0) << p.name;
    }
}

TEST_F(PemtStages, ARunGoesOnBitForBit) {
    const auto data = tiny::dataset(tiny::target_rows());
    const Json training = {{"max_steps", 4}, {"batch_size", 3}, {"seed", 5}};
    const std::string bundle = saved(*sources());
    const auto whole = create(target_config(bundle)), part = create(target_config(bundle));
    Trainer through(whole, data, training);
    while (!through.progress().done) through.step();
    {
        Trainer begun(part, data, training);
        begun.step();
        begun.step();
        begun.save_checkpoint(folder_ / "half");
    }
    const auto resumed = create(target_config(bundle));
    Trainer rest(resumed, data, training);
    rest.resume(folder_ / "half");
    while (!rest.progress().done) rest.step();
    EXPECT_EQ(tiny::weights(*resumed), tiny::weights(*whole));
}

/// Real tasks end to end: stage 1 on four, stage 2 on the other two, a bundle, and answers from it.
TEST_F(PemtStages, RealTasksFromTheFirstStageToAnAnswer) {
    const fs::path folder = std::string(POLYAD_SHARED_DIR) + "/superni-mini";
    if (!fs::exists(folder)) GTEST_SKIP() << "no tasks at " << folder;
    DatasetOptions options;
    options.tasks = {"task1210_atomic_classification_madeupof", "task1434_head_qa_classification",
                     "task413_mickey_en_sentence_perturbation_generation", "task429_senteval_tense"};
    options.max_examples_per_task = 4;
    const auto source_data = std::make_shared<const Dataset>(Dataset::open(folder, options));
    options.tasks = {"task083_babi_t1_single_supporting_fact_answer_generation",
                     "task1481_gene_extraction_bc2gm_dataset"};
    const auto target_data = std::make_shared<const Dataset>(Dataset::open(folder, options));
    // The tiny tokenizer makes long answers of long words.
    const Json prompt = {{"style", "{input} ->"}, {"max_tokens", 120}, {"max_answer_tokens", 100}};
    const auto train = [&](const Json& config, const std::shared_ptr<const Dataset>& data, const char* name) {
        const auto skills = Skillset::create(tiny::backbone(), data->tasks(), config);
        Trainer trainer(skills, data, {{"max_steps", 3}, {"batch_size", 4}, {"validation_examples", 2}});
        while (!trainer.progress().done) EXPECT_TRUE(std::isfinite(trainer.step().loss));
        return saved(*skills, name);
    };
    const std::string first =
        train({{"method", "pemt_source"}, {"rank", 2}, {"max_prompt_tokens", 6}, {"prompt", prompt}},
              source_data, "first.polyad");
    const std::string second =
        train({{"method", "pemt"}, {"sources", {first}}, {"max_prompt_tokens", 6}, {"prompt", prompt}},
              target_data, "second.polyad");
    fs::remove(first);
    const auto skills = Skillset::load(tiny::backbone(), fs::path(second));
    EXPECT_EQ(skills->metadata()["training"]["steps"], 3);
    std::vector<GenerationInput> rows;
    for (const Task& task : target_data->tasks()) {
        GenerationInput row;
        row.skillset = skills;
        row.task = skills->task_index(task.name);
        row.prompt = skills->prompts().prompt(task, task.examples(Split::test).front().input);
        row.prompt.resize(std::min<size_t>(row.prompt.size(), 40));
        row.sampling.max_tokens = 5;
        row.sampling.ignore_eos = true;
        rows.push_back(std::move(row));
    }
    for (const Generated& answer : generate(tiny::backbone(), rows)) EXPECT_EQ(answer.tokens.size(), 5u);
    const std::vector<float> gates = skills->method().task_weights(0);
    ASSERT_EQ(gates.size(), 4u);
    double sum = 0.0;
    for (const float gate : gates) sum += gate;
    EXPECT_NEAR(sum, 1.0, 1e-5);
}

TEST_F(PemtStages, RefusesSourcesThatDoNotFit) {
    const auto stage1 = sources();
    const std::string bundle = saved(*stage1);
    const auto refused = [&](const Json& list, Code code, const char* part) {
        EXPECT_REFUSED(create(with("sources", list)), code, part);
    };
    refused(Json::array(), Code::invalid_config, "stage 1");
    refused(Json::array({7}), Code::invalid_config, "sources[0]");
    refused({(folder_ / "nowhere").string()}, Code::not_found, "sources[0]");
    refused({bundle, bundle}, Code::invalid_config, "'down' already");
    refused({{{"bundle", bundle}, {"tasks", {"upp"}}}}, Code::unknown_task, "'up'");
    refused({{{"bundle", bundle}, {"task", "up"}}}, Code::invalid_config, "task");
    refused({saved(*tiny::skillset(tiny::method("poly"), *tiny::dataset()), "poly")}, Code::invalid_config,
            "method 'poly'");
    Json config = tiny::source_config();
    config["rank"] = 2;
    refused({bundle, saved(*tiny::skillset(config, *tiny::dataset(tiny::target_rows())), "rank")},
            Code::invalid_config, "one form");
    config = tiny::source_config();
    config["target_modules"] = "model.layers.0.mlp.down_proj";
    refused({saved(*tiny::skillset(config, *tiny::dataset()), "half")}, Code::invalid_config, "do not cover");

    Bundle damaged = decode_bundle(Bytes::copy_of(stage1->save_to_memory(), "test"));
    damaged.config["rank"] = 5;
    const fs::path wrong = folder_ / "wrong";
    write_file_atomically(wrong, std::string_view(encode_bundle(damaged)));
    refused({wrong.string()}, Code::bad_format, "has shape");

    const fs::path other = std::string(POLYAD_SHARED_DIR) + "/fixtures/models/llama";
    if (fs::exists(other)) {
        config = {{"method", "pemt_source"}, {"rank", 4}, {"prompt_init", "random"}, {"prompt_tokens", 2}};
        const auto foreign = Skillset::create(Backbone::open(other), tiny::dataset()->tasks(), config);
        refused({saved(*foreign, "foreign")}, Code::backbone_mismatch, "'llama'");
        refused({saved(*foreign, "foreign")}, Code::backbone_mismatch, "'tiny_llama.gguf'");
    }
}

TEST_F(PemtStages, RefusesOtherBadConfigurations) {
    const std::string bundle = saved(*sources());
    const auto refused = [&](const char* key, const Json& value, const char* part) {
        EXPECT_REFUSED(create(with(key, value)), Code::invalid_config, part);
    };
    refused("target_modules", "q_proj", "output projections");
    refused("rank", 8, "rank");
    refused("adapter_dim", 0, "adapter_dim");
    refused("corr_prompt", "later", "corr_prompt");
    refused("ts_weight", -1, "ts_weight");
    refused("prompt_lengths", {1, 2, 3}, "3 lengths for 2 tasks");
    refused("prompt_lengths", {0, 1}, "prompt_lengths");
    refused("prompt_init", "random", "empty_prompt");
    const auto silent = tiny::dataset(
        R"({"task": "silent", "instruction": "", "input": "a", "output": "b", "split": "train"}
)");
    EXPECT_REFUSED(tiny::skillset(target_config(bundle), *silent), Code::invalid_config, "empty_prompt");
    EXPECT_REFUSED(tiny::skillset(tiny::source_config(), *silent), Code::invalid_config, "empty_prompt");

    // A bundle that names files must not make its reader open them; a saved configuration is no start.
    const auto skills = create(target_config(bundle));
    EXPECT_REFUSED(create(skills->config()), Code::invalid_config, "saved configuration");
    Bundle hostile = decode_bundle(Bytes::copy_of(skills->save_to_memory(), "test"));
    hostile.config["sources"] = Json::array({bundle});
    EXPECT_REFUSED(load(encode_bundle(hostile)), Code::bad_format, "saved configuration");
}

}  // namespace
}  // namespace polyad
