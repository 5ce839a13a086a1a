// SPDX-License-Identifier: Apache-2.0
// PEMT, stage 1 (arXiv 2402.15082): every source task trains an expert of its own on the output projection of
// each feed-forward, and a prompt of its own that stands before its rows.
//
//     expert = lora      :  y = W0 u + s B_t(A_t u),                            s = alpha / r
//     expert = bottleneck:  y = W0 u + Up_t gelu_tanh(Down_t u)                 beside the projection
//     row of task t      :  [P_t ; embeddings]
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "backbone/backbone.h"
#include "base/error.h"
#include "routing/bottleneck.h"
#include "routing/method_table.h"
#include "routing/pemt_sources.h"
#include "routing/site_method.h"
#include "routing/task_prompts.h"

namespace polyad {
namespace {

constexpr double bottleneck_std = 0.01;

/// A table of one tensor per task and site, and how a new line of it starts.
enum class Start { zero, down, up_kaiming, small };
struct Table {
    size_t index;  ///< parameter
    Start start;
};

class PemtSource final : public SiteMethod {
  public:
    PemtSource(const Json& config, const MethodContext& context) : SiteMethod(context) {
        ConfigReader reader(config, "pemt_source");
        reader.accept("method");
        expect_feed_forward_sites(sites_, reader);
        lora_ = reader.choice("expert", "lora", {"lora", "bottleneck"}) == "lora";
        rank_ = reader.integer("rank", 64, 1, 4096);
        alpha_ = reader.number("alpha", static_cast<double>(rank_), 1e-6, 1e6);
        kaiming_b_ = reader.choice("stage1_lora_b_init", "zero", {"zero", "kaiming"}) == "kaiming";
        init_ = read_skill_init(reader);
        reader.choice("train", "all", {"all"});
        prompts_ = std::make_unique<TaskPrompts>(reader, context, prompt_width(context));
        reader.finish();
        for (const Site& site : sites_) {
            if (lora_) {
                table(site, "lora_a", {rank_, site.d_in}, Start::down);
                table(site, "lora_b", {site.d_out, rank_}, kaiming_b_ ? Start::up_kaiming : Start::zero);
            } else {
                table(site, "down_weight", {rank_, site.d_in}, Start::small);
                table(site, "down_bias", {rank_}, Start::zero);
                table(site, "up_weight", {site.d_out, rank_}, Start::small);
                table(site, "up_bias", {site.d_out}, Start::zero);
            }
        }
        for (int t = 0; t < tasks_; ++t)  // last, so that a task that comes later appends its own
            prompt_.push_back(
                add(text("prompt.", t), ParameterGroup::task_vectors, prompts_->start(t, maker_)));
    }

    std::unique_ptr<Adaptation> adapt(const RouteInput& input) override;
    int skill_count() const override { return std::max(1, tasks_); }
    bool needs_task() const override { return true; }
    bool exclusive() const override { return true; }
    int prefix_tokens(int task) const override { return static_cast<int>(prompts_->tokens(task)); }
    bool reads_prompt() const override { return true; }
    std::optional<CollapsedSite> collapse(const Site& site, int) override {
        expect_position(site);
        return std::nullopt;  // the prompt has no such form
    }

    void add_task(const std::string& start, Generator& noise) override {
        add_described_task("", start, noise);
    }

    void add_described_task(const std::string& description, const std::string& start,
                            Generator& noise) override {
        if (start != "fresh" && start != "uniform")
            fail(Code::invalid_config, "start: '", start, "' is not known, allowed: fresh, uniform");
        at::Tensor prompt = prompts_->add(description, noise);
        for (const Table& table : tables_)
            replace(table.index, at::cat({value(table.index).detach(), line(table, noise).to(device_)}, 0));
        prompt_.push_back(add(text("prompt.", tasks_), ParameterGroup::task_vectors, prompt.to(device_)));
        ++tasks_;
    }

    std::vector<float> task_weights(int task) override {
        std::vector<float> out(static_cast<size_t>(skill_count()), 0.0f);
        out.at(static_cast<size_t>(task)) = 1.0f;
        return out;
    }

    Json config() const override {
        Json out = {{"method", "pemt_source"},
                    {"expert", lora_ ? "lora" : "bottleneck"},
                    {"rank", rank_},
                    {"alpha", alpha_},
                    {"stage1_lora_b_init", kaiming_b_ ? "kaiming" : "zero"},
                    {"init", skill_init_name(init_)},
                    {"train", "all"}};
        prompts_->write(out);
        return out;
    }

    using SiteMethod::position;
    bool lora() const { return lora_; }
    const at::Tensor& prompt(int task) const { return value(prompt_[static_cast<size_t>(task)]); }
    /// Position of the site of a layer, -1 when it is not adapted.
    int place_of(int layer) const {
        for (size_t i = 0; i < sites_.size(); ++i)
            if (sites_[i].layer == layer) return static_cast<int>(i);
        return -1;
    }
    Stream stream(int place) const { return sites_[static_cast<size_t>(place)].stream; }

    LowRank update(int place, const std::vector<int32_t>& tasks, const std::vector<int32_t>& group) const {
        const size_t first = 2 * static_cast<size_t>(place);
        const at::Tensor chosen = list(std::vector<int64_t>(tasks.begin(), tasks.end()));
        LowRank update;
        update.a = value(tables_[first].index).index_select(0, chosen);
        update.b = value(tables_[first + 1].index).index_select(0, chosen);
        update.group_of_row = group;
        update.scale = alpha_ / static_cast<double>(rank_);
        return update;
    }
    Bottleneck bottleneck(int place) const {
        const size_t first = 4 * static_cast<size_t>(place);
        return {value(tables_[first].index), value(tables_[first + 1].index), value(tables_[first + 2].index),
                value(tables_[first + 3].index)};
    }

  private:
    void table(const Site& site, const char* name, std::vector<int64_t> shape, Start start) {
        const std::string path = site.path + "." + name;
        shape.insert(shape.begin(), tasks_);
        at::Tensor value;
        if (start == Start::down)
            value = maker_.down(shape, path, init_, 1);
        else if (start == Start::up_kaiming)
            value = maker_.uniform(shape, path, -b_bound(), b_bound());
        else if (start == Start::small)
            value = maker_.normal(shape, path, bottleneck_std);
        else
            value = maker_.zeros(shape);
        tables_.push_back({add(path, ParameterGroup::skills, std::move(value)), start});
    }

    /// A new task's line of a table, [1, ...].
    at::Tensor line(const Table& table, Generator& noise) const {
        std::vector<int64_t> shape = value(table.index).sizes().vec();
        shape[0] = 1;
        if (table.start == Start::down) return draw_down(shape, init_, 1, noise, device_);
        at::Tensor out = at::zeros(shape, at::TensorOptions().dtype(at::kFloat));
        float* values = out.mutable_data_ptr<float>();
        const auto count = static_cast<size_t>(out.numel());
        if (table.start == Start::up_kaiming) noise.fill_uniform(values, count, -b_bound(), b_bound());
        if (table.start == Start::small) noise.fill_normal(values, count, 0.0, bottleneck_std);
        return out;
    }

    /// Kaiming-uniform with a = sqrt(5) on a fan-in of r.
    double b_bound() const { return 1.0 / std::sqrt(static_cast<double>(rank_)); }

    bool lora_ = true, kaiming_b_ = false;
    int64_t rank_ = 64;
    double alpha_ = 64.0;
    SkillInit init_ = SkillInit::kaiming;
    std::unique_ptr<TaskPrompts> prompts_;
    std::vector<Table> tables_;   ///< per site two (lora) or four (bottleneck)
    std::vector<size_t> prompt_;  ///< parameter indices per task
};

class PemtSourceAdaptation final : public Adaptation {
  public:
    PemtSourceAdaptation(const PemtSource& method, PromptedRows rows, RouteInput input)
        : method_(method), rows_(std::move(rows)), trace_(input.trace) {
        for (const int32_t task : rows_.task) {
            const auto found = std::find(tasks_.begin(), tasks_.end(), task);
            group_.push_back(static_cast<int32_t>(found - tasks_.begin()));
            if (found == tasks_.end()) tasks_.push_back(task);
        }
    }

    std::vector<at::Tensor> prefix() override {
        if (std::all_of(rows_.prefix.begin(), rows_.prefix.end(), [](int64_t n) { return n == 0; }))
            return {};
        std::vector<at::Tensor> out;
        for (size_t b = 0; b < rows_.task.size(); ++b)
            out.push_back(rows_.prefix[b] > 0 ? method_.prompt(rows_.task[b]) : at::Tensor());
        return out;
    }

    std::vector<LowRank> at(const Site& site, const at::Tensor&) override {
        const int place = method_.position(site);
        if (place < 0) return {};
        if (trace_) {
            at::Tensor weights = at::zeros({static_cast<int64_t>(group_.size()), method_.skill_count()});
            for (size_t b = 0; b < group_.size(); ++b)
                weights.mutable_data_ptr<float>()[static_cast<int64_t>(b) * method_.skill_count() +
                                                  rows_.task[b]] = 1.0f;
            (*trace_)[site.path]["weights"] = weights;
        }
        if (!method_.lora()) return {};
        return {method_.update(place, tasks_, group_)};
    }

    at::Tensor feed_forward(int layer, const at::Tensor& u, const at::Tensor& y) override {
        const int place = method_.lora() ? -1 : method_.place_of(layer);
        if (place < 0) return y;
        const RowBegin& begin = rows_.begin[static_cast<int>(method_.stream(place))];
        return y + method_.bottleneck(place).apply(u, begin, rows_.task);
    }

  private:
    const PemtSource& method_;
    PromptedRows rows_;
    std::map<std::string, std::map<std::string, at::Tensor>>* trace_;
    std::vector<int32_t> tasks_, group_;  ///< the batch's tasks; each row's place among them
};

std::unique_ptr<Adaptation> PemtSource::adapt(const RouteInput& input) {
    for (const std::vector<float>& weights : input.weights)
        if (!weights.empty())
            fail(Code::invalid_argument,
                 "weights: in stage 1 every task has its own expert, there is nothing to mix");
    return std::make_unique<PemtSourceAdaptation>(*this, PromptedRows(input, *prompts_, tasks_), input);
}

}  // namespace

std::unique_ptr<Method> make_pemt_source(const Json& config, const MethodContext& context) {
    return std::make_unique<PemtSource>(config, context);
}

}  // namespace polyad
