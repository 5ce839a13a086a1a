// SPDX-License-Identifier: Apache-2.0
// A backbone of one layer that is an MLP, gelu(x W1^T + b1) W2^T + b2: its copies are the experts of the
// task_moe cases of kind "mlp".
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>

#include <memory>
#include <string>
#include <vector>

#include "backbone/backbone.h"
#include "base/error.h"
#include "golden/case.h"

namespace polyad::golden {

class MlpLayer final : public Backbone {
  public:
    MlpLayer(const std::string& path, const Json& config) {
        info_.layers = 1;
        const auto size = [&](const char* key) { return config.at(key).get<int64_t>(); };
        const int64_t sizes[] = {size("d_in"), size("expert_hidden"), size("d_out")};
        for (int i = 0; i < 2; ++i) {
            Site site;
            site.index = i;
            site.path = path + (i ? ".w2" : ".w1");
            site.d_in = sizes[i];
            site.d_out = sizes[i + 1];
            sites_.push_back(site);
        }
    }

    /// "layer.w1.weight.expert_2" is row 2 of the case's "expert_w1"; other names are as they are.
    static std::string case_name(const std::string& name, const std::string& otherwise) {
        if (name.find(".expert_") == std::string::npos) return otherwise;
        const char number = name[name.find(".w") + 2];
        return std::string(name.find(".bias.") == std::string::npos ? "expert_w" : "expert_b") + number;
    }
    static at::Tensor part(const std::string& name, const at::Tensor& value) {
        const size_t mark = name.find(".expert_");
        return mark == std::string::npos ? value : value[std::stol(name.substr(mark + 8))];
    }

    at::Tensor forward(Adaptation& adaptation, const at::Tensor& x) const {
        Batch batch;
        adaptation.begin(*this, batch, {});
        std::vector<at::Tensor> outputs;
        for (int copy = 0; copy < adaptation.copies(0, x); ++copy) {
            if (const auto part = adaptation.copy_part(0, copy); part && part->empty()) {
                outputs.emplace_back();
                continue;
            }
            adaptation.enter(0, copy);  // all rows: join() takes its part of them
            const auto apply = [&](const Site& site, const at::Tensor& in) {
                return at::linear(in, adaptation.weight(site.path + ".weight"),
                                  adaptation.weight(site.path + ".bias"));
            };
            outputs.push_back(apply(sites_[1], at::gelu(apply(sites_[0], x))));
        }
        return adaptation.join(0, outputs);
    }

    const BackboneInfo& info() const override { return info_; }
    const std::vector<Site>& sites() const override { return sites_; }
    const std::vector<NormSite>& norms() const override { return norms_; }
    at::Tensor frozen(const std::string& path) const override {
        for (const Site& site : sites_) {
            if (path == site.path + ".weight")
                return at::zeros({site.d_out, site.d_in}, at::TensorOptions().device(golden::device()));
            if (path == site.path + ".bias")
                return at::zeros({site.d_out}, at::TensorOptions().device(golden::device()));
        }
        return {};
    }
    const std::shared_ptr<const Tokenizer>& tokenizer() const override { return tokenizer_; }
    at::ScalarType compute_dtype() const override { return at::kFloat; }
    at::Device device() const override { return golden::device(); }
    at::Tensor embed(const std::vector<int32_t>&) const override { unused(); }
    at::Tensor hidden(const Batch&, const ForwardOptions&) const override { unused(); }
    at::Tensor logits(const at::Tensor&) const override { unused(); }
    at::Tensor token_nll(const at::Tensor&, const std::vector<int32_t>&, double) const override { unused(); }
    std::unique_ptr<KvCache> make_cache(int, int) const override { unused(); }

  private:
    [[noreturn]] static void unused() { fail(Code::unsupported, "one layer without tokens"); }

    BackboneInfo info_;
    std::vector<Site> sites_;
    std::vector<NormSite> norms_;
    std::shared_ptr<const Tokenizer> tokenizer_;
};

}  // namespace polyad::golden
