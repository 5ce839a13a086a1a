// SPDX-License-Identifier: Apache-2.0
// LoRA (methods.md 7): y = W0 x + b + s B(A dropout(x)), s = alpha / r, or alpha / sqrt(r) with use_rslora.
//
// With use_dora (DoRA, arXiv 2402.09353) the update's direction and length are learned apart, per output row:
//
//     V = W0 + s B A,    y = m / ||V||_row * (W0 x + s B(A dropout(x))) + b,    m = ||W0||_row at the start
//
// As in its section 4.3 and in PEFT the norm is a constant in the backward pass. Here dropout touches the
// low-rank path only; PEFT, while it trains with dropout, also drops inputs of the part of W0 x that m /
// ||V|| changes.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <cmath>
#include <mutex>

#include "backbone/backbone.h"
#include "base/error.h"
#include "routing/dropout.h"
#include "routing/method_table.h"
#include "routing/site_method.h"
#include "skills/mixing.h"

namespace polyad {
namespace {

class Lora final : public SiteMethod {
  public:
    Lora(const Json& config, const MethodContext& context) : SiteMethod(context) {
        ConfigReader reader(config, "lora");
        reader.accept("method");
        rank_ = reader.integer("rank", 8, 1, 4096);
        alpha_ = reader.number("alpha", 8.0, 1e-6, 1e6);
        rslora_ = reader.boolean("use_rslora", false);
        dora_ = reader.boolean("use_dora", false);
        dropout_ = reader.number("lora_dropout", 0.0, 0.0, 0.99);
        reader.choice("train", "all", {"all"});
        init_ = read_skill_init(reader);
        reader.finish();
        scale_ = alpha_ / (rslora_ ? std::sqrt(static_cast<double>(rank_)) : static_cast<double>(rank_));
        for (const Site& site : sites_) {
            const std::string name = site.path + ".lora_a";
            down_.push_back(
                add(name, ParameterGroup::skills, maker_.down({rank_, site.d_in}, name, init_, 1)));
            up_.push_back(
                add(site.path + ".lora_b", ParameterGroup::skills, maker_.zeros({site.d_out, rank_})));
        }
        if (dora_) add_magnitudes(context.backbone);
    }

    std::unique_ptr<Adaptation> adapt(const RouteInput& input) override;
    int skill_count() const override { return 1; }
    bool needs_task() const override { return false; }
    Sharing sharing(Mode mode) const override {
        return mode == Mode::train && dropout_ > 0.0 ? Sharing::none : Sharing::all;
    }
    bool exclusive() const override { return dora_; }
    bool causal() const override { return true; }
    void parameters_changed() override {
        const std::lock_guard lock(norm_mutex_);
        norms_.assign(norms_.size(), at::Tensor());
    }

    std::optional<CollapsedSite> collapse(const Site& site, int) override {
        const size_t at = expect_position(site);
        if (dora_) return std::nullopt;  // m / ||V|| changes W0 x, too
        return CollapsedSite{value(down_[at]).detach(), value(up_[at]).detach() * scale_};
    }

    void add_task(const std::string& start, Generator&) override {
        if (start != "fresh" && start != "uniform")
            fail(Code::invalid_config, "start: '", start, "' is not known, allowed: fresh, uniform");
        ++tasks_;
    }

    std::vector<float> task_weights(int) override { return {1.0f}; }

    Json config() const override {
        return {{"method", "lora"},  {"rank", rank_},
                {"alpha", alpha_},   {"use_rslora", rslora_},
                {"use_dora", dora_}, {"lora_dropout", dropout_},
                {"train", "all"},    {"init", skill_init_name(init_)}};
    }

    /// The update of a site; `gate` [rows, 1] when rows bring weights of their own.
    LowRank update(size_t at, const at::Tensor& gate) const {
        LowRank update;
        update.a = value(down_[at]);
        update.b = value(up_[at]);
        update.scale = scale_;
        if (gate.defined()) {
            update.gate_kind = Gate::diagonal;
            update.gate = gate;
        }
        return update;
    }
    using SiteMethod::position;
    double dropout() const { return dropout_; }

    /// m / ||V||_row of a site, undefined without use_dora.
    at::Tensor output_scale(size_t at) const {
        if (!dora_) return {};
        return value(magnitude_[at]) / norm(at);
    }

  private:
    /// Lengths of W0's rows, so that a fresh adapter changes nothing.
    void add_magnitudes(const Backbone* backbone) {
        if (!backbone) fail(Code::invalid_config, "lora.use_dora: needs the backbone's weights");
        backbone_ = backbone;
        norms_.resize(sites_.size());
        frozen_squares_.resize(sites_.size());
        for (size_t i = 0; i < sites_.size(); ++i) {
            at::Tensor m = maker_.zeros({sites_[i].d_out});
            if (maker_.fill() == Fill::initialised) m.copy_(norm(i));
            // Weight decay would pull the frozen weights themselves towards zero.
            magnitude_.push_back(add(sites_[i].path + ".magnitude", ParameterGroup::scalars, m));
        }
    }

    /// ||W0 + s B A||_row, a constant for autograd; kept until a parameter changes.
    at::Tensor norm(size_t at) const {
        const std::lock_guard lock(norm_mutex_);
        if (norms_[at].defined()) return norms_[at];
        at::NoGradGuard no_grad;
        at::Tensor& own = frozen_squares_[at];
        if (!own.defined()) {
            const at::Tensor frozen = backbone_->frozen(sites_[at].path + ".weight");
            if (!frozen.defined())
                fail(Code::unsupported, "lora.use_dora: '", sites_[at].path, "' has no weight of its own");
            own = (frozen * frozen).sum(1);
        }
        // ||w + s b A||^2 = ||w||^2 + 2 s b . (A w) + s^2 b (A A^T) b^T, row by row: W0 is read once, as it
        // lies.
        const at::Tensor &a = value(down_[at]), &b = value(up_[at]);
        const at::Tensor across = backbone_->frozen_product(sites_[at].path, a).t();
        const at::Tensor squares =
            own + (b * (across * (2.0 * scale_) + at::mm(b, at::mm(a, a.t())) * (scale_ * scale_))).sum(1);
        const at::Tensor length = squares.clamp_min(0.0).sqrt();
        // A row of zeros gives 0 whatever it is multiplied with, but not divided by 0.
        norms_[at] = at::where(length == 0, at::ones_like(length), length);
        return norms_[at];
    }

    int64_t rank_ = 8;
    double alpha_ = 8.0, dropout_ = 0.0, scale_ = 1.0;
    bool rslora_ = false, dora_ = false;
    SkillInit init_ = SkillInit::kaiming;
    std::vector<size_t> down_, up_, magnitude_;  ///< parameter indices per site
    const Backbone* backbone_ = nullptr;         ///< with use_dora
    mutable std::mutex norm_mutex_;
    mutable std::vector<at::Tensor> norms_;           ///< with use_dora, per site
    mutable std::vector<at::Tensor> frozen_squares_;  ///< ||W0||^2 per row; they never change
};

class LoraAdaptation final : public Adaptation {
  public:
    LoraAdaptation(const Lora& method, at::Tensor gate, std::optional<uint64_t> seed, RouteInput recorded)
        : method_(method), gate_(std::move(gate)), seed_(seed), recorded_(std::move(recorded)) {}

    std::vector<LowRank> at(const Site& site, const at::Tensor& x) override {
        const int position = method_.position(site);
        if (position < 0) return {};
        LowRank update = method_.update(static_cast<size_t>(position), gate_);
        const at::Tensor mask = keep_mask(site, x);
        if (mask.defined()) update.input = x * mask.to(x.scalar_type());
        return {std::move(update)};
    }

    at::Tensor output_scale(const Site& site) override {
        const int position = method_.position(site);
        return position < 0 ? at::Tensor() : method_.output_scale(static_cast<size_t>(position));
    }

  private:
    at::Tensor keep_mask(const Site& site, const at::Tensor& x) const {
        if (const at::Tensor mask = recorded_noise(recorded_, site.path, "dropout_mask"); mask.defined())
            return mask.reshape(x.sizes()).to(x.device(), at::kFloat) / (1.0 - method_.dropout());
        if (!seed_) return {};
        return dropout_mask(named_generator(*seed_, site.path).state(), x.size(0), x.size(1),
                            method_.dropout(), x.device());
    }

    const Lora& method_;
    at::Tensor gate_;
    std::optional<uint64_t> seed_;
    RouteInput recorded_;  ///< only `recorded` is set
};

std::unique_ptr<Adaptation> Lora::adapt(const RouteInput& input) {
    check_explicit_weights(input, skill_count());
    for (size_t row = 0; row < input.task_ids.size(); ++row)
        if (input.task_ids[row] != -1) check_task_id(input, static_cast<int>(row), tasks_);
    for (const auto& weights : input.weights)
        if (dora_ && !weights.empty())
            fail(Code::unsupported,
                 "a DoRA adapter cannot be weighted: its magnitudes scale the backbone's own "
                 "output; use it without weights");
    at::Tensor gate;
    if (!input.weights.empty()) {
        std::vector<float> rows;
        for (const auto& weights : input.weights) rows.push_back(weights.empty() ? 1.0f : weights[0]);
        gate = list(rows).view({-1, 1});
    }
    std::optional<uint64_t> seed;
    RouteInput recorded;
    if (input.mode == Mode::train && dropout_ > 0.0) {
        recorded.recorded = input.recorded;
        if (!input.recorded) seed = noise_seed(input, "lora_dropout");
    }
    if (input.trace)
        for (const Site& site : sites_)
            (*input.trace)[site.path]["weights"] =
                gate.defined() ? gate : at::ones({input.rows(), 1}, floats());
    return std::make_unique<LoraAdaptation>(*this, std::move(gate), seed, std::move(recorded));
}

}  // namespace

std::unique_ptr<Method> make_lora(const Json& config, const MethodContext& context) {
    return std::make_unique<Lora>(config, context);
}

}  // namespace polyad
