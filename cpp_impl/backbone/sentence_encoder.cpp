// SPDX-License-Identifier: Apache-2.0
#include "backbone/sentence_encoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/stack.h>

#include "base/error.h"

namespace polyad {
at::Tensor mean_pool(const at::Tensor& states, const RowBegin& row_begin) {
    std::vector<at::Tensor> rows;
    for (size_t b = 0; b + 1 < row_begin.size(); ++b)
        rows.push_back(states.slice(0, row_begin[b], row_begin[b + 1]).to(at::kFloat).mean(0));
    return at::stack(rows);
}

at::Tensor unit_rows(const at::Tensor& x) {
    return x / at::linalg_vector_norm(x, 2, at::IntArrayRef{-1}, true).clamp_min(1e-12);
}

SentenceEncoder::SentenceEncoder(std::shared_ptr<const Backbone> backbone, int max_tokens)
    : backbone_(std::move(backbone)), max_tokens_(max_tokens) {
    if (!backbone_) fail(Code::invalid_argument, "the sentence encoder is null");
    const BackboneInfo& info = backbone_->info();
    if (!info.encoder_only)
        fail(Code::unsupported, "'", info.name, "' (", info.family,
             ") is not a sentence encoder: a BERT model is needed");
    if (!backbone_->tokenizer())
        fail(Code::unsupported, "the sentence encoder '", info.name, "' came without a tokenizer");
    if (max_tokens < 2 || max_tokens > info.context)
        fail(Code::invalid_argument, "max_tokens: ", max_tokens, " is out of range, allowed: 2 to ",
             info.context, ", what the sentence encoder '", info.name, "' reads");
}

std::vector<int32_t> SentenceEncoder::tokens(std::string_view text) const {
    std::vector<int32_t> ids = backbone_->tokenizer()->encode(text, true);
    const auto most = static_cast<size_t>(max_tokens_);
    if (ids.size() > most) ids.erase(ids.begin() + max_tokens_ - 1, ids.end() - 1);  // [SEP] stays
    if (ids.empty()) fail(Code::bad_data, "a text has no tokens for the sentence encoder");
    return ids;
}

at::Tensor SentenceEncoder::embed(const std::vector<std::string>& texts) const {
    const at::NoGradGuard no_gradients;
    const int64_t width = backbone_->info().width;
    at::Tensor out =
        at::empty({static_cast<int64_t>(texts.size()), width}, at::TensorOptions().dtype(at::kFloat));
    for (size_t i = 0; i < texts.size(); ++i) {
        Batch batch;
        batch.tokens = tokens(texts[i]);
        batch.row_begin = {0, batch.size()};
        batch.prompt_length = {batch.size()};
        out[static_cast<int64_t>(i)].copy_(
            unit_rows(mean_pool(backbone_->hidden(batch), batch.row_begin))[0]);  // to host memory
    }
    return out;
}

}  // namespace polyad
