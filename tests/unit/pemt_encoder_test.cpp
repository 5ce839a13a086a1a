// SPDX-License-Identifier: Apache-2.0
// PEMT as published, on encoder-decoders: the prompt stands in the encoder, decoder gates read its final
// states.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/softmax.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "backbone/backbone.h"
#include "base/error.h"
#include "routing/skillset.h"

namespace polyad {
namespace {

namespace fs = std::filesystem;

struct Row {
    std::vector<int32_t> source, tokens;
    int task = 0;
    RouteMemory* memory = nullptr;
    int slot = 0;
};

struct Ran {
    at::Tensor hidden;
    std::map<std::string, std::map<std::string, at::Tensor>> trace;
    std::unique_ptr<Adaptation> adaptation;
};

/// Keeps what the encoder hands to another adaptation.
class Listening final : public Adaptation {
  public:
    explicit Listening(Adaptation& inner) : inner_(inner) {}
    std::vector<LowRank> at(const Site& site, const at::Tensor& x) override { return inner_.at(site, x); }
    std::vector<at::Tensor> prefix() override { return inner_.prefix(); }
    void encoded(const at::Tensor& given) override {
        states = given;
        inner_.encoded(given);
    }
    at::Tensor feed_forward(int layer, const at::Tensor& u, const at::Tensor& y) override {
        return inner_.feed_forward(layer, u, y);
    }
    at::Tensor weight(const std::string& path) override { return inner_.weight(path); }

    at::Tensor states;

  private:
    Adaptation& inner_;
};

class PemtEncoder : public testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        const fs::path model = std::string(POLYAD_SHARED_DIR) + "/fixtures/models/" + GetParam();
        if (!fs::exists(model)) GTEST_SKIP() << "no fixture at " << model;
        backbone_ = Backbone::open(model, {Precision::fp32, WeightStorage::automatic});
        file_ = fs::temp_directory_path() /
                ("polyad_pemt_encoder_" + std::to_string(getpid()) + "_" + GetParam() + ".polyad");
    }
    void TearDown() override {
        if (!file_.empty()) fs::remove(file_);
    }

    static std::vector<Task> tasks(const char* first, const char* second) {
        std::vector<Task> out(2);
        out[0].name = first;
        out[1].name = second;
        return out;
    }
    static void shake(Skillset& skills, uint64_t seed, double size) {
        Generator random(seed);
        for (const Parameter& p : skills.method().parameters()) {
            auto* data = p.value.mutable_data_ptr<float>();
            for (int64_t i = 0; i < p.value.numel(); ++i)
                data[i] += static_cast<float>(size * random.normal());
        }
        skills.method().parameters_changed();
    }
    std::shared_ptr<Skillset> target(const Json& more = Json::object()) const {
        const auto sources = Skillset::create(
            backbone_, tasks("a", "b"),
            {{"method", "pemt_source"}, {"rank", 2}, {"prompt_init", "random"}, {"prompt_tokens", 3}});
        shake(*sources, 1, 0.1);
        sources->save(file_);
        Json config = {{"method", "pemt"},        {"sources", {file_.string()}}, {"adapter_dim", 4},
                       {"prompt_init", "random"}, {"prompt_tokens", 4},          {"prompt_dropout", 0.0}};
        config.update(more);
        auto out = Skillset::create(backbone_, tasks("c", "d"), config);
        shake(*out, 2, 0.1);
        return out;
    }

    Ran run(const Skillset& skills, const std::vector<Row>& rows, KvCache* cache = nullptr,
            Mode mode = Mode::eval, at::Tensor* states = nullptr) const {
        Batch batch;
        RouteInput input;
        ForwardOptions options;
        batch.row_begin = batch.source_begin = {0};
        for (const Row& row : rows) {
            batch.tokens.insert(batch.tokens.end(), row.tokens.begin(), row.tokens.end());
            batch.source.insert(batch.source.end(), row.source.begin(), row.source.end());
            batch.row_begin.push_back(batch.size());
            batch.source_begin.push_back(static_cast<int32_t>(batch.source.size()));
            batch.prompt_length.push_back(static_cast<int32_t>(row.source.size()));
            input.task_ids.push_back(row.task);
            input.memory.push_back(row.memory);
            if (cache) options.slots.push_back(row.slot);
        }
        input.row_begin = batch.row_begin;
        input.source_begin = batch.source_begin;
        input.prompt_length = batch.prompt_length;
        input.mode = mode;
        Ran out;
        input.trace = &out.trace;
        out.adaptation = skills.method().adapt(input);
        Listening listening(*out.adaptation);
        options.adaptation = &listening;
        options.cache = cache;
        out.hidden = backbone_->hidden(batch, options);
        if (states) *states = listening.states;
        return out;
    }

    const Site& site(bool decoder) const {
        for (const Site& site : sites_of())
            if ((site.stream == Stream::tokens) == decoder) return site;
        fail(Code::not_found, "no such site");
    }
    std::vector<Site>& sites_of() const {
        if (sites_.empty())
            for (const Site& site : backbone_->sites())
                if (site.role == Role::feed_forward_out) sites_.push_back(site);
        return sites_;
    }

    std::shared_ptr<const Backbone> backbone_;
    fs::path file_;
    mutable std::vector<Site> sites_;
};

const std::vector<int32_t> one{20, 21, 22, 23, 24}, other{100, 101, 102}, said{1, 30, 31, 32};

double largest(const at::Tensor& a, const at::Tensor& b) {
    return (a.detach() - b.detach()).abs().max().item<double>();
}

Parameter& parameter(const Skillset& skills, const std::string& name) {
    for (Parameter& p : skills.method().parameters())
        if (p.name == name) return p;
    fail(Code::not_found, "no parameter ", name);
}

TEST_P(PemtEncoder, DecoderGatesReadTheEncodersStatesOfThePrompt) {
    const auto skills = target();
    const at::NoGradGuard no_gradients;
    EXPECT_EQ(skills->sites().size(), static_cast<size_t>(backbone_->info().layers));
    at::Tensor states;
    const Ran out = run(*skills, {{one, said, 0}}, nullptr, Mode::eval, &states);
    ASSERT_EQ(states.size(0), 4 + 5);
    const std::string decoder = site(true).path, encoder = site(false).path;
    const at::Tensor& table = parameter(*skills, decoder + ".gate_weight").value;
    EXPECT_EQ(table.size(2), backbone_->info().width);
    EXPECT_EQ(parameter(*skills, encoder + ".gate_weight").value.size(2), site(false).d_in);
    const at::Tensor want = at::softmax(at::mm(states.narrow(0, 0, 4).mean(0, true), table[0].t()), -1);
    EXPECT_LT(largest(out.trace.at(decoder).at("weights"), want), 1e-5);
    // An encoder reads both ways: its gates know the row, and nothing of the answer.
    const Ran another = run(*skills, {{other, said, 0}}), longer = run(*skills, {{one, {1, 9}, 0}});
    for (const std::string& path : {decoder, encoder}) {
        EXPECT_GT(largest(out.trace.at(path).at("weights"), another.trace.at(path).at("weights")), 1e-6)
            << path;
        EXPECT_LT(largest(out.trace.at(path).at("weights"), longer.trace.at(path).at("weights")), 1e-7)
            << path;
    }
    double sum = 0.0;
    for (const float gate : skills->method().task_weights(1)) sum += gate;
    EXPECT_NEAR(sum, 1.0, 1e-5);
}

TEST_P(PemtEncoder, RowsOfTwoTasksEqualThemselvesAlone) {
    const auto skills = target();
    const at::NoGradGuard no_gradients;
    const std::vector<Row> rows{{one, said, 0}, {other, {1, 40}, 1}, {{7}, {1, 8, 9}, 0}};
    const at::Tensor together = run(*skills, rows).hidden;
    std::vector<at::Tensor> alone;
    for (const Row& row : rows) alone.push_back(run(*skills, {row}).hidden);
    EXPECT_LT(largest(together, at::cat(alone, 0)), 1e-3);
    Row swapped = rows[0];
    swapped.task = 1;
    EXPECT_GT(largest(alone[0], run(*skills, {swapped}).hidden), 1e-2);
}

TEST_P(PemtEncoder, CachedRowsEqualWholeOnes) {
    const auto skills = target();
    const at::NoGradGuard no_gradients;
    const at::Tensor whole = run(*skills, {{one, said, 0}}).hidden,
                     second = run(*skills, {{other, {1, 40}, 1}}).hidden;
    const auto cache = backbone_->make_cache(2, 24);
    RouteMemory memory[2];
    const at::Tensor first = run(*skills, {{one, {1, 30}, 0, &memory[0], 0}}, cache.get()).hidden;
    const at::Tensor mixed =
        run(*skills, {{{}, {31}, 0, &memory[0], 0}, {other, {1}, 1, &memory[1], 1}}, cache.get()).hidden;
    const at::Tensor last =
        run(*skills, {{{}, {32}, 0, &memory[0], 0}, {{}, {40}, 1, &memory[1], 1}}, cache.get()).hidden;
    EXPECT_LT(largest(at::cat({first, mixed.narrow(0, 0, 1), last.narrow(0, 0, 1)}, 0), whole), 1e-3);
    EXPECT_LT(largest(at::cat({mixed.narrow(0, 1, 1), last.narrow(0, 1, 1)}, 0), second), 1e-3);
}

TEST_P(PemtEncoder, GradientsAreThoseOfTheLoss) {
    const auto skills = target({{"ts_weight", 2.0}});
    const std::vector<int32_t> targets{30, 31, 32, 2, 40, 2};
    const auto loss = [&] {
        Ran out = run(*skills, {{one, said, 0}, {other, {1, 40}, 1}}, nullptr, Mode::train);
        return backbone_->token_nll(out.hidden, targets).sum() +
               skills->method().auxiliary_loss(*out.adaptation);
    };
    loss().backward();
    std::vector<std::string> names{"prompt.0", "prompt.1", backbone_->norms().front().path,
                                   backbone_->norms().back().path};
    for (const bool decoder : {false, true})
        for (const char* part : {".gate_weight", ".adapter_down_weight", ".adapter_up_bias"})
            names.push_back(site(decoder).path + part);
    for (const std::string& name : names) {
        const Parameter& p = parameter(*skills, name);
        ASSERT_TRUE(p.value.grad().defined()) << name;
        const at::NoGradGuard no_gradients;
        const double length = p.value.grad().norm().item<double>();
        ASSERT_GT(length, 0.0) << name;
        const at::Tensor direction = p.value.grad() / length;
        const double step = std::min(0.006, 0.03 / length);
        p.value.add_(direction, step);
        const double up = loss().item<double>();
        p.value.add_(direction, -2.0 * step);
        const double down = loss().item<double>();
        p.value.add_(direction, step);
        EXPECT_NEAR((up - down) / (2.0 * step), length, 0.03 * length + 5e-3) << name;
    }
}

TEST_P(PemtEncoder, ReturnsFromItsBundle) {
    const auto skills = target();
    const std::string bytes = skills->save_to_memory();
    const auto again = Skillset::load(backbone_, Bytes::copy_of(bytes, "test.polyad"));
    EXPECT_EQ(again->save_to_memory(), bytes);
    const at::NoGradGuard no_gradients;
    EXPECT_EQ(largest(run(*skills, {{one, said, 1}}).hidden, run(*again, {{one, said, 1}}).hidden), 0.0);
}

INSTANTIATE_TEST_SUITE_P(Models, PemtEncoder, testing::Values("t5_v10", "t5_v11", "bart"));

}  // namespace
}  // namespace polyad
