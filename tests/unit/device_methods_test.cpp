// SPDX-License-Identifier: Apache-2.0
// Every method on a device: the same start, the same training, the same answers as on the CPU, and bundles
// that go either way. The device is the tests' own unless POLYAD_TEST_DEVICE names another ("cuda",
// "cuda:1").
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>

#include "backbone/device.h"
#include "device/test_device.h"
#include "routing/clusters.h"
#include "serving/generate.h"
#include "serving/score.h"
#include "tiny_encoder_decoder.h"
#include "training/trainer.h"

namespace polyad {
namespace {

std::string device_name() {
    const char* named = std::getenv("POLYAD_TEST_DEVICE");
    return named && *named ? named : "shadow";
}

std::shared_ptr<const Backbone> open(const std::string& model, at::Device device) {
    BackboneOptions options;
    options.precision = Precision::fp32;
    options.device = device;
    return Backbone::open(std::filesystem::path(model), options);
}

/// The tiny model on both devices, opened once.
struct Models {
    std::shared_ptr<const Backbone> cpu, device;

    static const Models& decoder() {
        static const Models models{open(tiny::model().string(), at::kCPU),
                                   open(tiny::model().string(), test_device(device_name()))};
        return models;
    }
    static const Models& encoder_decoder() {
        static const Models models{tiny::encoder_decoder("t5_v11"),
                                   tiny::open_encoder_decoder("t5_v11", Precision::fp32, Json::object(),
                                                              test_device(device_name()))};
        return models;
    }
};

struct Case {
    std::string name;
    Json options;  ///< over those of tiny::method
};

std::vector<Case> cases() {
    return {
        {"lora", {{"method", "lora"}}},
        {"lora_dora", {{"method", "lora"}, {"use_dora", true}}},
        {"lora_dropout", {{"method", "lora"}, {"lora_dropout", 0.25}}},
        {"poly", {{"method", "poly"}}},
        {"poly_products", {{"method", "poly"}, {"combine", "products"}}},
        {"poly_router", {{"method", "poly"}, {"train", "router"}}},
        {"mhr", {{"method", "mhr"}, {"n_splits", 4}}},
        {"cpoly", {{"method", "cpoly"}, {"common_skills", 2}}},
        {"cpoly_one_hot", {{"method", "cpoly"}, {"common_skills", 2}, {"specific_routing", "one_hot"}}},
        {"cpoly_diag",
         {{"method", "cpoly"},
          {"common_skills", 1},
          {"private_skills", 2},
          {"specific_routing", "learned_diag"}}},
        {"private_lora", {{"method", "private_lora"}}},
        {"molora",
         {{"method", "molora"}, {"n_experts", 4}, {"top_k", 2}, {"balance_loss", 0.1}, {"z_loss", 0.1}}},
        {"moelora_task", {{"method", "moelora_task"}, {"n_experts", 2}}},
        {"mixlora", {{"method", "mixlora"}, {"n_experts", 4}}},
        {"xlora", {{"method", "xlora"}, {"n_experts", 3}, {"xlora_depth", 2}, {"xlora_size", 16}}},
        {"xlora_every_token", {{"method", "xlora"}, {"n_experts", 3}, {"answer_scalings", "token"}}},
        {"orchmoe", {{"method", "orchmoe"}}},
        {"mor1e", {{"method", "mor1e"}}},
        {"task_moe_lora", {{"method", "task_moe"}, {"expert_kind", "lora"}}},
        {"pemt_source", {{"method", "pemt_source"}}},
        {"lora_set", {{"method", "lora_set"}}},
        {"lora_set_two_ranks",
         {{"method", "lora_set"},
          {"adapters", {{{"name", "one"}, {"rank", 3}}, {{"name", "two"}, {"rank", 5}}}}}},
    };
}

Json config_of(const Case& c) {
    Json config = tiny::method("lora");
    config.update(c.options);
    const std::string method = config.at("method");
    if (method == "mor1e") config.erase("rank");
    return config;
}

double largest_difference(const Skillset& a, const Skillset& b, std::string& where) {
    const auto &left = a.method().parameters(), &right = b.method().parameters();
    if (left.size() != right.size()) return INFINITY;
    double most = 0.0;
    for (size_t i = 0; i < left.size(); ++i) {
        const at::Tensor x = on_host(left[i].value.detach()), y = on_host(right[i].value.detach());
        if (x.sizes() != y.sizes()) return INFINITY;
        if (x.numel() == 0) continue;
        const double off = (x - y).abs().max().item<double>();
        if (!(off <= most)) {
            most = off;
            where = left[i].name;
        }
    }
    return most;
}

std::vector<float> logits(const Skillset& skills, int task) {
    return last_logits(*skills.backbone(), &skills, task, {20, 21, 22, 23, 24});
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
    double most = a.size() == b.size() ? 0.0 : INFINITY;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
        most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
    return most;
}

std::vector<int32_t> answer(const std::shared_ptr<const Skillset>& skills, int task) {
    GenerationInput input;
    input.skillset = skills;
    input.task = task;
    input.prompt = {20, 21, 22, 23, 24};
    input.sampling.max_tokens = 6;
    input.sampling.ignore_eos = true;
    return generate(skills->backbone(), {input}).front().tokens;
}

constexpr double close = 2e-3;

/// Trains on both devices, and serves each bundle on both.
void check(const Models& models, const Json& config) {
    const auto data = tiny::dataset();
    std::string where;
    const auto on_cpu = Skillset::create(models.cpu, data->tasks(), config);
    const auto there = Skillset::create(models.device, data->tasks(), config);
    // Drawn numbers are the same bits; what is computed from weights (DoRA's magnitudes) is rounded
    // elsewhere.
    EXPECT_LE(largest_difference(*on_cpu, *there, where), 1e-6) << "start of " << where;

    const Json training = {{"max_steps", 4},   {"batch_size", 3},          {"learning_rate", 0.01},
                           {"seed", 5},        {"validation_examples", 2}, {"validation_every", 2},
                           {"keep_best", true}};
    Trainer cpu_trainer(on_cpu, data, training), trainer(there, data, training);
    for (int step = 0; step < 4; ++step) {
        const Progress want = cpu_trainer.step(), got = trainer.step();
        EXPECT_NEAR(got.loss, want.loss, close * std::max(1.0, want.loss)) << "loss of step " << step;
        EXPECT_NEAR(got.gradient_norm, want.gradient_norm, 2e-2 * want.gradient_norm + close)
            << "step " << step;
    }
    // Adam's first steps follow the gradient's sign, so that tiny differences can move an entry by whole
    // steps.
    EXPECT_LT(largest_difference(*on_cpu, *there, where), 0.09) << where;
    for (int task = 0; task < 2; ++task)
        EXPECT_LT(distance(logits(*on_cpu, task), logits(*there, task)), 0.3)
            << "trained apart, task " << task;

    // The same bundle has to give the same numbers on both devices, whichever trained it.
    for (const Skillset* source : {on_cpu.get(), there.get()}) {
        SCOPED_TRACE(source == there.get() ? "trained on the device" : "trained on the CPU");
        const auto trained = source->save_to_memory();
        const Bytes bundle = Bytes::copy_of(trained, "bundle");
        const auto here = Skillset::load(models.cpu, bundle);
        const auto again = Skillset::load(models.device, bundle);
        EXPECT_EQ(largest_difference(*here, *source, where), 0.0) << where;
        EXPECT_EQ(largest_difference(*again, *source, where), 0.0) << where;
        EXPECT_EQ(again->save_to_memory(), trained);
        for (int task = 0; task < 2; ++task) {
            EXPECT_LT(distance(logits(*here, task), logits(*again, task)), close) << "task " << task;
            EXPECT_EQ(answer(here, task), answer(again, task)) << "task " << task;
            EXPECT_LT(distance(here->method().task_weights(task), again->method().task_weights(task)), 1e-4);
        }
        EXPECT_EQ(largest_difference(*again->snapshot(), *again, where), 0.0) << where;
    }
}

class DeviceMethods : public testing::Test {
  protected:
    void SetUp() override {
        SKIP_WITHOUT_TINY_MODEL();
        try {
            test_device(device_name());
        } catch (const Error& e) {
            GTEST_SKIP() << "no CUDA device: " << e.what();
        }
    }
};

class EveryMethod : public DeviceMethods, public testing::WithParamInterface<Case> {};

TEST_P(EveryMethod, TrainsAndServesAsOnTheCpu) {
    check(Models::decoder(), config_of(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Decoder, EveryMethod, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST_F(DeviceMethods, LayerCopies) {
    Json config = tiny::method("lora");
    config.erase("rank");
    config["method"] = "task_moe";
    // One-hot routes turn on differences of the last bit, which Adam's first steps make large.
    config["select"] = "softmax";
    check(Models::decoder(), config);
}

TEST_F(DeviceMethods, EncoderDecoder) {
    for (const char* method : {"poly", "orchmoe", "pemt_source"}) {
        SCOPED_TRACE(method);
        Json config = tiny::method("lora");
        config["method"] = method;
        check(Models::encoder_decoder(), config);
    }
}

TEST_F(DeviceMethods, PemtFromASourceBundle) {
    const auto data = tiny::dataset();
    const Models& models = Models::decoder();
    Json source = tiny::method("lora");
    source["method"] = "pemt_source";
    const auto first = Skillset::create(models.cpu, data->tasks(), source);
    tiny::shake(*first, 3, 0.1);
    const auto path =
        std::filesystem::temp_directory_path() / ("polyad_device_" + std::to_string(getpid()) + ".polyad");
    first->save(path);
    Json config = tiny::method("lora");
    config["method"] = "pemt";
    config.erase("rank");
    config["sources"] = Json::array({path.string()});
    check(models, config);
    std::filesystem::remove(path);
}

TEST_F(DeviceMethods, AResumedRunGoesOnAsItWas) {
    const auto data = tiny::dataset();
    const Models& models = Models::decoder();
    const auto path =
        std::filesystem::temp_directory_path() / ("polyad_device_" + std::to_string(getpid()) + ".ck");
    const Json training = {
        {"max_steps", 6}, {"batch_size", 3}, {"learning_rate", 0.01}, {"validation_examples", 0}};
    const auto whole = Skillset::create(models.device, data->tasks(), tiny::method("poly"));
    Trainer trainer(whole, data, training);
    for (int i = 0; i < 3; ++i) trainer.step();
    trainer.save_checkpoint(path);
    for (int i = 0; i < 3; ++i) trainer.step();
    const auto rest = Skillset::create(models.device, data->tasks(), tiny::method("poly"));
    Trainer second(rest, data, training);
    second.resume(path);
    for (int i = 0; i < 3; ++i) second.step();
    std::string where;
    EXPECT_LT(largest_difference(*whole, *rest, where), 1e-4) << where;
    std::filesystem::remove(path);
}

TEST_F(DeviceMethods, ClustersAreFoundWhereTheEncoderLies) {
    for (const bool spherical : {false, true}) {
        at::Tensor points = at::empty({90, 16});  // around nine axes
        Generator random(4);
        for (int64_t i = 0; i < points.numel(); ++i)
            points.data_ptr<float>()[i] =
                static_cast<float>((i % 16 == i / 16 % 9 ? 1.0 : 0.0) + 0.03 * random.normal());
        Generator one(6), other(6);
        const at::Tensor here = find_centroids(points, 9, spherical, one),
                         there = find_centroids(points, 9, spherical, other, test_device(device_name()));
        EXPECT_LT((here - there).abs().max().item<double>(), 1e-6) << spherical;
    }
}

TEST_F(DeviceMethods, RowsOfAMixedBatchEqualTheSameRowsAlone) {
    const auto data = tiny::dataset();
    const Models& models = Models::decoder();
    std::vector<GenerationInput> rows;
    for (const char* method : {"poly", "cpoly", "mixlora"}) {
        Json config = tiny::method("lora");
        config["method"] = method;
        const auto seed = Skillset::create(models.cpu, data->tasks(), config);
        tiny::shake(*seed, 7);
        const auto skills = Skillset::load(models.device, Bytes::copy_of(seed->save_to_memory(), "bundle"));
        for (int task = 0; task < 2; ++task) {
            GenerationInput input;
            input.skillset = skills;
            input.task = task;
            input.prompt = {20, 21, 22 + task};
            input.sampling.max_tokens = 8;
            input.sampling.ignore_eos = true;
            rows.push_back(input);
        }
    }
    const auto together = generate(models.device, rows, 6);
    for (size_t i = 0; i < rows.size(); ++i)
        EXPECT_EQ(together[i].tokens, generate(models.device, {rows[i]}).front().tokens) << "row " << i;
}

TEST_F(DeviceMethods, QuantisedWeightsStayPackedThere) {
    BackboneOptions options;
    options.precision = Precision::fp32;
    options.weights = WeightStorage::packed;
    options.device = test_device(device_name());
    const auto packed = Backbone::open(tiny::model(), options);
    const std::vector<int32_t> tokens{20, 21, 22, 23, 24};
    EXPECT_LT(distance(last_logits(*packed, nullptr, -1, tokens),
                       last_logits(*Models::decoder().cpu, nullptr, -1, tokens)),
              close);
}

}  // namespace
}  // namespace polyad
