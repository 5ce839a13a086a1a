// SPDX-License-Identifier: Apache-2.0
// A backbone whose answers are known beforehand: after "Output:\n" it repeats what stood after the last
// "Input: ". It reads bytes (ByteTokenizer), keeps a real cache and ignores adapters.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/zeros.h>

#include <limits>
#include <string>

#include "backbone/backbone.h"
#include "byte_tokenizer.h"

namespace polyad {

class EchoCache final : public KvCache {
  public:
    EchoCache(int slots, int capacity) : past(static_cast<size_t>(slots)), capacity_(capacity) {}
    int slots() const override { return static_cast<int>(past.size()); }
    int capacity() const override { return capacity_; }
    int length(int slot) const override { return static_cast<int>(past[static_cast<size_t>(slot)].size()); }
    void truncate(int slot, int length) override {
        past[static_cast<size_t>(slot)].resize(static_cast<size_t>(length));
    }
    std::vector<std::vector<int32_t>> past;

  private:
    int capacity_;
};

class EchoBackbone final : public Backbone {
  public:
    /// Logits become NaN once a row has read this text; "" = never.
    explicit EchoBackbone(std::string poison = "", int context = 4096) : poison_(std::move(poison)) {
        info_.name = "echo";
        info_.family = "echo";
        info_.layers = 1;
        info_.width = 1;
        info_.vocab = 258;
        info_.context = context;
    }
    const BackboneInfo& info() const override { return info_; }
    const std::vector<Site>& sites() const override { return sites_; }
    const std::vector<NormSite>& norms() const override { return norms_; }
    at::Tensor frozen(const std::string&) const override { return {}; }
    const std::shared_ptr<const Tokenizer>& tokenizer() const override { return tokenizer_; }
    at::ScalarType compute_dtype() const override { return at::kFloat; }
    at::Tensor embed(const std::vector<int32_t>& tokens) const override {
        return at::zeros({static_cast<int64_t>(tokens.size()), 1});
    }
    /// One number per position: the next token, or NaN.
    at::Tensor hidden(const Batch& batch, const ForwardOptions& options) const override {
        at::Tensor out = at::empty({batch.size(), 1}, at::TensorOptions().dtype(at::kFloat));
        float* value = out.mutable_data_ptr<float>();
        auto* cache = static_cast<EchoCache*>(options.cache);
        for (int b = 0; b < batch.rows(); ++b) {
            std::vector<int32_t> own;
            std::vector<int32_t>& history =
                cache ? cache->past[static_cast<size_t>(options.slots[static_cast<size_t>(b)])] : own;
            for (int i = batch.row_begin[static_cast<size_t>(b)];
                 i < batch.row_begin[static_cast<size_t>(b) + 1]; ++i) {
                history.push_back(batch.tokens[static_cast<size_t>(i)]);
                value[i] = next(tokenizer_->decode(history, true));
            }
        }
        return out;
    }
    at::Tensor logits(const at::Tensor& hidden) const override {
        at::Tensor out = at::zeros({hidden.size(0), 258});
        for (int64_t i = 0; i < hidden.size(0); ++i) {
            const float token = hidden.const_data_ptr<float>()[i];
            float* row = out.mutable_data_ptr<float>() + i * 258;
            if (token != token)
                std::fill(row, row + 258, token);
            else
                row[static_cast<int>(token)] = 10.0f;
        }
        return out;
    }
    at::Tensor token_nll(const at::Tensor& hidden, const std::vector<int32_t>& targets,
                         double) const override {
        const at::Tensor log_p = at::log_softmax(logits(hidden.contiguous()), 1);
        at::Tensor out =
            at::empty({static_cast<int64_t>(targets.size())}, at::TensorOptions().dtype(at::kFloat));
        for (size_t i = 0; i < targets.size(); ++i)
            out.mutable_data_ptr<float>()[i] =
                -log_p.const_data_ptr<float>()[i * 258 + static_cast<size_t>(targets[i])];
        return out;
    }
    std::unique_ptr<KvCache> make_cache(int slots, int capacity) const override {
        return std::make_unique<EchoCache>(slots, capacity);
    }

  private:
    float next(const std::string& read) const {
        if (!poison_.empty() && read.find(poison_) != std::string::npos)
            return std::numeric_limits<float>::quiet_NaN();
        const std::string before = "Input: ", after = "\nOutput:\n";
        const size_t mark = read.rfind(after);
        if (mark == std::string::npos) return 0.0f;
        const size_t start = read.rfind(before, mark) + before.size();
        const std::string answer = read.substr(start, mark - start);
        const size_t said = read.size() - mark - after.size();
        return said < answer.size() ? static_cast<float>(static_cast<unsigned char>(answer[said])) : 257.0f;
    }

    BackboneInfo info_;
    std::vector<Site> sites_;
    std::vector<NormSite> norms_;
    std::shared_ptr<const Tokenizer> tokenizer_ = std::make_shared<ByteTokenizer>();
    std::string poison_;
};

}  // namespace polyad
