// SPDX-License-Identifier: Apache-2.0
// A case of one adapted linear, through Method, Adaptation and adapted_linear.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include <set>

#include "backbone/device.h"
#include "backbone/low_rank.h"
#include "base/error.h"
#include "golden/case.h"
#include "golden/mlp_layer.h"
#include "golden/options.h"
#include "golden/pemt_case.h"
#include "routing/method.h"
#include "routing/route_table.h"

namespace polyad::golden {
namespace {

const char* const site_path = "layer";

class Runner {
  public:
    explicit Runner(const Case& c) : case_(c) {
        site_.path = site_path;
        site_.d_in = c.config.at("d_in").get<int64_t>();
        site_.d_out = c.config.at("d_out").get<int64_t>();
        if (c.config.value("expert_kind", "") == "mlp")
            mlp_ = std::make_unique<MlpLayer>(site_path, c.config);
        MethodContext context;
        context.sites = {site_};
        if (mlp_) {
            context.sites = mlp_->sites();
            context.backbone = mlp_.get();
        }
        context.tasks = c.config.value("n_tasks", 1);
        context.device = device();
        method_ = make_method(product_config(c.method, c.config), context);
        load_parameters();
        order_tokens();
    }

    std::string run() {
        compute();
        if (!case_.expected_error.empty()) return "was computed, expected the error " + case_.expected_error;
        std::string problem = compare_outputs();
        if (problem.empty()) problem = compare_gradients();
        if (problem.empty() && !case_.train) problem = compare_serving();
        return problem;
    }

  private:
    static std::string suffix(const Parameter& p) {
        const std::string prefix = std::string(site_path) + ".";
        return p.name.starts_with(prefix) ? p.name.substr(prefix.size()) : p.name;
    }
    /// The case's name for a parameter of the method, and the tensor under it; of stacked experts the one.
    std::string case_name(const Parameter& p) const {
        return mlp_ ? mlp_->case_name(p.name, suffix(p)) : suffix(p);
    }
    at::Tensor case_value(const char* kind, const Parameter& p) const {
        const at::Tensor value = case_.find(kind + case_name(p));
        return mlp_ && value.defined() ? mlp_->part(p.name, value) : value;
    }

    void load_parameters() {
        at::NoGradGuard no_grad;
        std::set<std::string> used;
        for (Parameter& p : method_->parameters()) {
            const at::Tensor value = case_value("param.", p);
            if (!value.defined()) {
                if (suffix(p) == "router_steps") continue;  // a counter, 0 in every case
                if (case_.expected_error.empty())
                    fail(Code::bad_format, "the case has no value for '", p.name, "'");
                continue;
            }
            if (value.sizes() != p.value.sizes())
                fail(Code::bad_format, "parameter '", p.name, "' has shape ", p.value.sizes(),
                     ", the case has ", value.sizes());
            p.value.copy_(value);
            used.insert(case_name(p));
        }
        if (used.size() != case_.names("param.").size())
            fail(Code::bad_format, "the case has parameters the method lacks");
        method_->parameters_changed();
    }

    /// The product's rows begin with their prompt and have no padding, a case's rows are masked anywhere: the
    /// tokens a router may read go first in each row, in their order, and results go back to where they were.
    /// No layer knows positions, so nothing else changes.
    void order_tokens() {
        const at::Tensor x = case_.at("in.x"), prompt = case_.find("in.prompt_mask"),
                         attention = case_.find("in.attention_mask");
        const int64_t rows = x.size(0), length = x.size(1);
        std::vector<int64_t> order;
        for (int64_t b = 0; b < rows; ++b) {
            int32_t read = 0;
            for (const bool wanted : {true, false})
                for (int64_t n = b * length; n < (b + 1) * length; ++n) {
                    const bool reads = prompt.defined() && prompt.const_data_ptr<uint8_t>()[n] &&
                                       (!attention.defined() || attention.const_data_ptr<uint8_t>()[n]);
                    if (reads != wanted) continue;
                    order.push_back(n);
                    read += reads;
                }
            if (prompt.defined()) prompt_length_.push_back(read);
        }
        order_ = at::tensor(order, at::kLong);
        back_ = order_.argsort().to(device());
        order_ = order_.to(device());
    }

    RouteInput route_input() {
        const at::Tensor x = case_.at("in.x");
        RouteInput input;
        for (int64_t b = 0; b <= x.size(0); ++b)
            input.row_begin.push_back(static_cast<int32_t>(b * x.size(1)));
        if (const at::Tensor ids = case_.find("in.task_ids"); ids.defined())
            for (int64_t b = 0; b < x.size(0); ++b)
                input.task_ids.push_back(static_cast<int32_t>(ids.const_data_ptr<int64_t>()[b]));
        input.intuition = case_.find("in.intuition");
        input.prompt_length = prompt_length_;
        input.mode = case_.train ? Mode::train : Mode::eval;
        for (const char* name : {"u", "dropout_mask"})
            if (const at::Tensor noise = case_.find(std::string("in.") + name); noise.defined())
                recorded_[mlp_ ? mlp_->sites()[0].path : site_path][name] = noise;
        input.recorded = &recorded_;
        return input;
    }

    at::Tensor forward(const at::Tensor& flat_x, const RouteInput& input) {
        adaptation_ = method_->adapt(input);
        if (mlp_) return mlp_->forward(*adaptation_, flat_x);
        const at::Tensor x = flat_x.index_select(0, order_);
        at::Tensor bias = case_.find("in.base_bias");
        if (bias.defined()) bias = bias.to(device());
        return adapted_linear(x, case_.at("in.base_weight").to(device()), bias, input.row_begin,
                              adaptation_->at(site_, x))
            .index_select(0, back_);
    }

    void compute() {
        RouteInput input = route_input();
        input.trace = &trace_;
        const at::Tensor given = case_.at("in.x");
        x_ = given.clone().to(device()).requires_grad_(true);
        y_ = forward(x_.view({-1, site_.d_in}), input).view({given.size(0), given.size(1), site_.d_out});
    }

    at::Tensor output(const std::string& name) {
        if (name == "y") return y_;
        if (name == "task_delta") return task_delta();
        if (name == "squeeze") {
            const std::vector<Site> sites = mlp_ ? mlp_->sites() : std::vector<Site>{site_};
            const RouteTable routes = route_table(*method_, sites, case_.config.at("n_tasks").get<int>());
            return at::argmax(routes.logits, 1);
        }
        if (name == "aux_loss") return method_->auxiliary_loss(*adaptation_).view({1});
        const auto site = trace_.find(mlp_ ? mlp_->sites()[0].path : site_path);
        if (site == trace_.end()) return {};
        const auto tensor = site->second.find(name);
        return tensor == site->second.end() ? at::Tensor() : tensor->second;
    }

    at::Tensor task_delta() {
        std::vector<at::Tensor> tasks;
        for (int64_t t = 0; t < case_.at("out.task_delta").size(0); ++t) {
            const auto pair = method_->collapse(site_, static_cast<int>(t));
            if (!pair) return {};
            tasks.push_back(at::mm(pair->b, pair->a));
        }
        return at::stack(tasks);
    }

    std::string compare_outputs() {
        for (const std::string& name : case_.names("out.")) {
            const at::Tensor want = case_.at("out." + name);
            at::Tensor got = output(name);
            if (got.defined() && got.numel() == want.numel())
                got = got.reshape(want.sizes());  // tokens laid end to end
            if (std::string problem = difference("out." + name, got, want, case_); !problem.empty())
                return problem;
        }
        return {};
    }

    std::string compare_gradients() {
        at::Tensor loss;
        for (const std::string& name : case_.names("in.grad_")) {
            const at::Tensor weight = case_.at("in.grad_" + name), value = output(name);
            if (!value.defined()) return "out." + name + " was not computed";
            const at::Tensor term = (value.reshape(weight.sizes()) * weight.to(device())).sum();
            loss = loss.defined() ? loss + term : term;
        }
        if (case_.find("out.aux_loss").defined()) loss = loss + output("aux_loss").sum();
        if (loss.defined() && loss.requires_grad()) run_backward(loss);
        for (const std::string& name : case_.grad_inputs) {
            if (name != "x") return "gradient of input '" + name + "' is not offered";
            if (std::string problem = compare_gradient("x", x_, case_.at("grad.x")); !problem.empty())
                return problem;
        }
        std::set<std::string> trainable;
        for (const Parameter& p : method_->parameters()) {
            const at::Tensor gradient = case_value("grad.", p);
            const bool wanted = gradient.defined();
            if (p.trainable != wanted)
                return "parameter " + suffix(p) + (wanted ? " is frozen" : " is not frozen");
            if (!wanted) continue;
            trainable.insert(case_name(p));
            if (std::string problem = compare_gradient(suffix(p), p.value, gradient); !problem.empty())
                return problem;
        }
        return trainable.size() == case_.trainable.size() ? ""
                                                          : "the case trains parameters the method lacks";
    }

    std::string compare_gradient(const std::string& name, const at::Tensor& leaf, const at::Tensor& want) {
        const at::Tensor got = leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf);
        return difference("grad." + name, got, want, case_);
    }

    /// The same rows as they are served: outside autograd, with mixtures that are kept between calls.
    std::string compare_serving() {
        at::NoGradGuard no_grad;
        for (int call = 0; call < 2; ++call) {
            const at::Tensor y = forward(case_.at("in.x").to(device()).view({-1, site_.d_in}), route_input());
            std::string problem =
                difference("served y", y.view(case_.at("out.y").sizes()), case_.at("out.y"), case_);
            if (!problem.empty()) return problem;
        }
        return {};
    }

    const Case& case_;
    Site site_;
    std::unique_ptr<Method> method_;
    std::unique_ptr<MlpLayer> mlp_;  ///< the layer whose copies are the experts, in cases of that kind
    std::unique_ptr<Adaptation> adaptation_;
    std::map<std::string, std::map<std::string, at::Tensor>> recorded_, trace_;
    at::Tensor x_, y_;
    at::Tensor order_, back_;  ///< of the flat tokens
    std::vector<int32_t> prompt_length_;
};

}  // namespace

bool knows_method(const std::string& method) {
    return has_product_config(method);
}

std::string run_method_case(const Case& c) {
    try {
        if (c.method == "pemt" || c.method == "pemt_prompt") return run_pemt_case(c);
        return Runner(c).run();
    } catch (const Error& e) {
        if (c.expected_error.empty()) return text("error ", code_name(e.code()), ": ", e.what());
        const std::string said = std::string(e.what()) + " " + e.detail();
        return said.find(c.expected_error) != std::string::npos
                   ? ""
                   : text("refused, but not for ", c.expected_error, ": ", said);
    }
}

}  // namespace polyad::golden
