// SPDX-License-Identifier: Apache-2.0
// PEFT's adapters over a real decoder: logits, losses and gradients equal PEFT's own, in training and as
// served.
#include "routing/peft_skillset.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "io/safetensors.h"

namespace polyad {
namespace {

const std::filesystem::path fixtures = std::filesystem::path(POLYAD_SHARED_DIR) / "fixtures";

at::Tensor tensor_of(const StoredTensor& stored) {
    at::Tensor out = at::empty(stored.shape, at::TensorOptions().dtype(at::kFloat));
    to_float(stored, out.mutable_data_ptr<float>());
    return out;
}

/// The fixture's right-padded rows laid end to end.
struct Rows {
    Batch batch;
    std::vector<int64_t> place, predicting;
    std::vector<int32_t> targets;

    explicit Rows(const Safetensors& file) {
        const StoredTensor& stored = file.at("right.input_ids");
        const std::vector<int64_t> ids = to_int64(stored), mask = to_int64(file.at("right.attention_mask")),
                                   labels = to_int64(file.at("right.labels"));
        batch.row_begin = {0};
        for (int64_t b = 0; b < stored.shape[0]; ++b) {
            for (int64_t t = 0; t < stored.shape[1]; ++t) {
                const auto at = static_cast<size_t>(b * stored.shape[1] + t);
                if (!mask[at]) continue;
                if (labels[at] >= 0 && batch.size() > batch.row_begin.back()) {
                    predicting.push_back(batch.size() - 1);
                    targets.push_back(static_cast<int32_t>(labels[at]));
                }
                batch.tokens.push_back(static_cast<int32_t>(ids[at]));
                place.push_back(static_cast<int64_t>(at));
            }
            batch.row_begin.push_back(batch.size());
        }
        batch.prompt_length.assign(static_cast<size_t>(batch.rows()), 1);
    }
};

double off(const at::Tensor& got, const at::Tensor& want) {
    return (got.detach().to(at::kDouble) - want.to(at::kDouble)).abs().max().item<double>();
}

class PeftSkillset : public testing::TestWithParam<const char*> {};

TEST_P(PeftSkillset, ComputesWhatPeftComputes) {
    const auto folder = fixtures / "peft" / "llama" / GetParam();
    if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is missing";
    BackboneOptions precise;
    precise.precision = Precision::fp32;
    const auto backbone = Backbone::open(fixtures / "models" / "llama", precise);
    const Rows rows(open_safetensors(fixtures / "models" / "llama" / "expected.safetensors"));
    const Safetensors expected = open_safetensors(folder / "expected.safetensors");
    const auto skillset = import_peft(backbone, open_peft(folder));
    const bool poly = std::string(GetParam()) == "poly";
    const at::Tensor place = at::tensor(rows.place, at::kLong),
                     predicting = at::tensor(rows.predicting, at::kLong);

    std::vector<std::string> prefixes = {""};
    if (poly) prefixes = {"task0.", "task1.", "task2.", "mixed."};
    for (size_t i = 0; i < prefixes.size(); ++i) {
        const std::string& prefix = prefixes[i];
        RouteInput input;
        input.row_begin = rows.batch.row_begin;
        input.prompt_length = rows.batch.prompt_length;
        for (int b = 0; b < rows.batch.rows(); ++b) {
            int task = static_cast<int>(i);
            if (prefix == "mixed.")
                task = static_cast<int>(to_int64(expected.at("mixed.task_ids"))[static_cast<size_t>(b)]);
            input.task_ids.push_back(poly ? task : -1);
        }
        const at::Tensor all = tensor_of(expected.at(prefix + "logits"));
        const at::Tensor want = all.reshape({-1, all.size(2)}).index_select(0, place);
        ForwardOptions options;
        {
            at::NoGradGuard no_grad;
            const auto served = skillset->method().adapt(input);
            options.adaptation = served.get();
            EXPECT_LT(off(backbone->logits(backbone->hidden(rows.batch, options)), want), 2e-4)
                << prefix << "served";
        }
        for (Parameter& p : skillset->method().parameters()) p.value.mutable_grad() = at::Tensor();
        const auto adaptation = skillset->method().adapt(input);
        options.adaptation = adaptation.get();
        const at::Tensor hidden = backbone->hidden(rows.batch, options);
        EXPECT_LT(off(backbone->logits(hidden.detach()), want), 2e-4) << prefix;
        const at::Tensor loss = backbone->token_nll(hidden.index_select(0, predicting), rows.targets).mean();
        EXPECT_NEAR(loss.item<double>(), tensor_of(expected.at(prefix + "loss")).item<double>(), 5e-5);
        loss.backward();

        // PEFT's layout of a gradient is that of the tensor: import a "file" that holds gradients, compare by
        // name.
        PeftAdapter gradients = open_peft(folder);
        for (PeftModule& module : gradients.modules) {
            const std::string head = prefix + "grad.base_model.model." + module.path;
            module.a = expected.at(head + (poly ? ".poly_lora_A" : ".lora_A.weight"));
            module.b = expected.at(head + (poly ? ".poly_lora_B" : ".lora_B.weight"));
            if (poly) module.logits = expected.at(head + ".poly_router.module_logits");
            if (module.magnitude) module.magnitude = expected.at(head + ".lora_magnitude_vector");
        }
        const auto want_grad = import_peft(backbone, gradients);
        for (size_t k = 0; k < skillset->method().parameters().size(); ++k) {
            const Parameter& p = skillset->method().parameters()[k];
            const at::Tensor reference = want_grad->method().parameters()[k].value.detach();
            ASSERT_TRUE(p.value.grad().defined()) << p.name;
            EXPECT_LT(off(p.value.grad(), reference), 1e-4 + 1e-4 * reference.abs().max().item<double>())
                << prefix << p.name;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Llama, PeftSkillset, testing::Values("lora", "rslora", "dora", "poly"));

class Dora : public testing::Test {
  protected:
    void SetUp() override {
        if (!std::filesystem::exists(fixtures)) GTEST_SKIP() << fixtures << " is missing";
        BackboneOptions precise;
        precise.precision = Precision::fp32;
        backbone_ = Backbone::open(fixtures / "models" / "llama", precise);
        batch_.tokens = {5, 9, 33, 7};
        batch_.row_begin = {0, 4};
        batch_.prompt_length = {4};
    }
    at::Tensor hidden(Method* method, std::vector<float> weights = {}) const {
        ForwardOptions options;
        std::unique_ptr<Adaptation> adaptation;
        RouteInput input;
        input.row_begin = batch_.row_begin;
        input.prompt_length = batch_.prompt_length;
        input.task_ids = {-1};
        if (!weights.empty()) input.weights = {std::move(weights)};
        if (method) adaptation = method->adapt(input);
        options.adaptation = adaptation.get();
        at::NoGradGuard no_grad;
        return backbone_->hidden(batch_, options);
    }
    std::shared_ptr<const Backbone> backbone_;
    Batch batch_;
};

TEST_F(Dora, FreshAdapterLeavesTheBackboneAndStaysSoWhenSaved) {
    const auto fresh = Skillset::create(backbone_, {}, {{"method", "lora"}, {"rank", 2}, {"use_dora", true}});
    EXPECT_TRUE(hidden(&fresh->method()).equal(hidden(nullptr)));
    const std::string bytes = fresh->save_to_memory();
    const auto loaded = Skillset::load(backbone_, Bytes::copy_of(std::string_view(bytes), "bundle"));
    EXPECT_TRUE(hidden(&loaded->method()).equal(hidden(nullptr)));
    EXPECT_TRUE(loaded->method().exclusive());
    EXPECT_EQ(loaded->method().collapse(loaded->sites()[0], -1), std::nullopt);
    EXPECT_THROW(hidden(&loaded->method(), {0.5f}), Error);
    MethodContext without;
    without.sites = {fresh->sites()[0]};
    EXPECT_THROW(make_method({{"method", "lora"}, {"use_dora", true}}, without), Error);
}

TEST_F(Dora, MagnitudeIsTheLengthOfARowWhateverTheFactors) {
    // methods.md 16.1, case 19: W0 = [3, 4] and dW = [3, 4] or [1, -4] at x = [1, 1] give 7 and 5, since m
    // = 5. Here: B A in the direction of W0 changes nothing, whatever its length.
    const auto skillset = Skillset::create(backbone_, {},
                                           {{"method", "lora"},
                                            {"rank", 64},
                                            {"alpha", 64},
                                            {"use_dora", true},
                                            {"target_modules", {"q_proj"}}});
    at::NoGradGuard no_grad;
    for (Parameter& p : skillset->method().parameters()) {
        if (p.name.ends_with(".lora_a")) p.value.copy_(at::eye(64));
        if (p.name.ends_with(".lora_b"))
            p.value.copy_(1.5 * backbone_->frozen(p.name.substr(0, p.name.size() - 7) + ".weight"));
    }
    skillset->method().parameters_changed();
    EXPECT_LT(off(hidden(&skillset->method()), hidden(nullptr)), 1e-4);
    for (Parameter& p : skillset->method().parameters())
        if (p.name.ends_with(".lora_b")) p.value.mul_(0.1).add_(0.2);
    skillset->method().parameters_changed();  // another direction does change it
    EXPECT_GT(off(hidden(&skillset->method()), hidden(nullptr)), 1e-2);
}

TEST(PeftImport, RefusesWhatItCannotKeep) {
    const auto folder = fixtures / "peft" / "llama" / "lora";
    if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is missing";
    const auto backbone = Backbone::open(fixtures / "models" / "llama");
    PeftAdapter adapter = open_peft(folder);
    adapter.modules[1].scale *= 2;
    try {
        import_peft(backbone, adapter);
        FAIL() << "two scales were taken in";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), Code::unsupported);
    }
    adapter = open_peft(folder);
    std::vector<float> values = to_float(adapter.modules[0].a);
    values[3] = std::numeric_limits<float>::quiet_NaN();
    adapter.modules[0].a = float_tensor("a", adapter.modules[0].a.shape, values);
    try {
        import_peft(backbone, adapter);
        FAIL() << "NaN was taken in";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), Code::bad_format);
    }
}

}  // namespace
}  // namespace polyad
