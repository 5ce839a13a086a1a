// SPDX-License-Identifier: Apache-2.0
// PEMT's cases, through Method and Adaptation: the trained prefix, the site's update and what follows the
// feed-forward. The experts' values come from the case, so no bundle of stage 1 is read.
#include "golden/pemt_case.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>

#include "backbone/device.h"
#include "backbone/low_rank.h"
#include "base/error.h"
#include "golden/options.h"
#include "routing/method.h"

namespace polyad::golden {
namespace {

const char* const layer_path = "layer";

Site feed_forward(const std::string& path, int index, int64_t d_in, int64_t d_out, Stream stream) {
    Site site;
    site.index = site.layer = index;
    site.path = path;
    site.d_in = d_in;
    site.d_out = d_out;
    site.role = Role::feed_forward_out;
    site.stream = stream;
    return site;
}

class PemtRunner {
  public:
    explicit PemtRunner(const Case& c) : case_(c), given_(c.config.value("query", "") == "given") {}

    std::string run() { return case_.method == "pemt_prompt" ? run_prompt() : run_layer(); }

  private:
    void make(const std::vector<Site>& sites) {
        MethodContext context;
        context.sites = sites;
        context.tasks = 1;
        context.device = device();
        context.fill = Fill::uninitialised;
        method_ = make_method(product_config(case_.method, case_.config), context);
        at::NoGradGuard no_grad;
        for (Parameter& p : method_->parameters()) p.value.zero_();
    }

    Parameter* parameter(const std::string& name) {
        for (Parameter& p : method_->parameters())
            if (p.name == name) return &p;
        return nullptr;
    }

    /// Copies a value of the case; a table of the product has one line per task, the case one task.
    std::string set(const std::string& name, const at::Tensor& value) {
        Parameter* p = parameter(name);
        if (!p) return "the method has no parameter '" + name + "'";
        if (p->value.numel() != value.numel()) return "parameter '" + name + "' has another size";
        at::NoGradGuard no_grad;
        p->value.copy_(value.view(p->value.sizes()));
        return {};
    }

    std::string compare_gradient(const std::string& name, const at::Tensor& leaf) {
        const at::Tensor want = case_.at("grad." + name);
        const at::Tensor got = leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf);
        return difference("grad." + name, got.view(want.sizes()), want, case_);
    }

    std::string run_prompt() {
        const auto width = case_.config.at("d_model").get<int64_t>();
        make({feed_forward(layer_path, 0, width, width, Stream::tokens)});
        std::string problem = set("prompt.0", case_.at("param.prompt"));
        RouteInput input;
        input.row_begin = {0, 1};
        input.prompt_length = {1};
        input.task_ids = {0};
        input.mode = case_.train ? Mode::train : Mode::eval;
        for (int64_t i = 0; i < case_.config.at("n_sources").get<int64_t>() && problem.empty(); ++i) {
            problem = set(text("source_prompt.", i), case_.at(text("in.source_prompt.", i)));
            if (const at::Tensor mask = case_.find(text("in.dropout_mask.", i)); mask.defined())
                recorded_["prompt.0"][text("dropout_mask.", i)] = mask;
        }
        if (!problem.empty()) return problem;
        input.recorded = &recorded_;
        const std::vector<at::Tensor> prefix = method_->adapt(input)->prefix();
        if (prefix.size() != 1) return "no prefix was made";
        problem = difference("out.prompt", prefix[0], case_.at("out.prompt"), case_);
        if (!problem.empty()) return problem;
        run_backward((prefix[0] * case_.at("in.grad_prompt").to(device())).sum());
        return compare_gradient("prompt", parameter("prompt.0")->value);
    }

    RouteInput layer_input(int64_t rows, int64_t tokens, int64_t prefix) {
        RouteInput input;
        for (int64_t b = 0; b <= rows; ++b) {
            input.row_begin.push_back(static_cast<int32_t>(b * (tokens - prefix)));
            if (given_) input.source_begin.push_back(static_cast<int32_t>(b));
        }
        input.prompt_length.assign(static_cast<size_t>(rows), 1);
        input.task_ids.assign(static_cast<size_t>(rows), 0);
        input.mode = case_.train ? Mode::train : Mode::eval;
        if (const at::Tensor mask = case_.find("in.attention_mask"); mask.defined())
            recorded_[layer_path]["attention_mask"] = mask.to(device());
        input.recorded = &recorded_;
        input.trace = &trace_;
        return input;
    }

    std::string run_layer() {
        const auto d_in = case_.config.at("d_in").get<int64_t>(),
                   d_out = case_.config.at("d_out").get<int64_t>();
        const auto q = case_.config.at("query_dim").get<int64_t>();
        const Site site = feed_forward(layer_path, 1, d_in, d_out, Stream::tokens);
        if (given_)  // a decoder layer, whose gate reads an encoder of width q
            make({feed_forward("encoder", 0, q, q, Stream::source), site});
        else
            make({site});
        for (const std::string& name : case_.names("param."))
            if (std::string problem = set(std::string(layer_path) + "." + name, case_.at("param." + name));
                !problem.empty())
                return problem;

        const at::Tensor x = case_.at("in.x").clone().to(device()).requires_grad_(true);
        const int64_t rows = x.size(0), tokens = x.size(1);
        const RouteInput input =
            layer_input(rows, tokens, given_ ? 0 : case_.config.at("prompt_len").get<int64_t>());
        const std::unique_ptr<Adaptation> adaptation = method_->adapt(input);
        at::Tensor query;
        if (given_) {  // one prompt position per row, then one position of its own
            query = case_.at("in.query").clone().to(device()).requires_grad_(true);
            adaptation->encoded(
                at::cat({query.unsqueeze(1), at::zeros_like(query).unsqueeze(1)}, 1).view({2 * rows, q}));
        }
        RowBegin begin;
        for (int64_t b = 0; b <= rows; ++b) begin.push_back(static_cast<int32_t>(b * tokens));
        const at::Tensor u = x.view({-1, d_in});
        at::Tensor bias = case_.find("in.base_bias");
        if (bias.defined()) bias = bias.to(device());
        const at::Tensor mixed =
            adapted_linear(u, case_.at("in.base_weight").to(device()), bias, begin, adaptation->at(site, u));
        const at::Tensor y = adaptation->feed_forward(site.layer, u, mixed).view({rows, tokens, d_out});
        const at::Tensor aux = method_->auxiliary_loss(*adaptation);
        if (!aux.defined()) return "no auxiliary loss was computed";

        const std::map<std::string, at::Tensor> outputs = {
            {"y", y},
            {"weights", trace_[layer_path]["weights"]},
            {"task_sparsity", trace_[layer_path]["task_sparsity"].view({1})},
            {"aux_loss", aux.view({1})}};
        for (const std::string& name : case_.names("out.")) {
            const auto got = outputs.find(name);
            if (got == outputs.end()) return "out." + name + " is not offered";
            if (std::string problem = difference("out." + name, got->second, case_.at("out." + name), case_);
                !problem.empty())
                return problem;
        }
        run_backward((y * case_.at("in.grad_y").to(device())).sum() + aux);
        return compare_gradients(x, query);
    }

    std::string compare_gradients(const at::Tensor& x, const at::Tensor& query) {
        for (const std::string& name : case_.grad_inputs) {
            if (name != "x" && name != "query") return "gradient of input '" + name + "' is not offered";
            if (std::string problem = compare_gradient(name, name == "x" ? x : query); !problem.empty())
                return problem;
        }
        size_t trained = 0;
        const std::string prefix = std::string(layer_path) + ".";
        for (const Parameter& p : method_->parameters()) {
            if (p.name.rfind(prefix, 0) != 0) continue;
            const std::string name = p.name.substr(prefix.size());
            const bool wanted = case_.find("grad." + name).defined();
            if (p.trainable != wanted)
                return "parameter " + name + (wanted ? " is frozen" : " is not frozen");
            trained += wanted;
            if (!wanted) continue;
            if (std::string problem = compare_gradient(name, p.value); !problem.empty()) return problem;
        }
        return trained == case_.trainable.size() ? "" : "the case trains parameters the method lacks";
    }

    const Case& case_;
    const bool given_;
    std::unique_ptr<Method> method_;
    std::map<std::string, std::map<std::string, at::Tensor>> recorded_, trace_;
};

}  // namespace

std::string run_pemt_case(const Case& c) {
    return PemtRunner(c).run();
}

}  // namespace polyad::golden
