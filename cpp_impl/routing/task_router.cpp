// SPDX-License-Identifier: Apache-2.0
#include "routing/task_router.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gru.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/lstm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/rnn_tanh.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <utility>

#include "base/error.h"
#include "routing/dropout.h"

namespace polyad {
namespace {

constexpr int64_t heads = 4, feed_forward = 64;
constexpr double norm_eps = 1e-5;

/// Common to all kinds: making tensors and reading them.
class ShelvedRouter : public TaskRouter {
  protected:
    ShelvedRouter(const TensorMaker& maker, TensorShelf shelf) : maker_(maker), shelf_(std::move(shelf)) {}

    struct Affine {
        size_t weight, bias;
    };
    const at::Tensor& value(size_t index) const { return shelf_.value(index); }
    size_t uniform(const std::string& name, at::IntArrayRef shape, double bound) {
        return shelf_.add(name, maker_.uniform(shape, name, -bound, bound));
    }
    size_t constant(const std::string& name, at::IntArrayRef shape, double filled) {
        at::Tensor tensor = maker_.zeros(shape);
        if (filled != 0.0 && maker_.fill() == Fill::initialised) tensor.fill_(filled);
        return shelf_.add(name, std::move(tensor));
    }
    size_t normal(const std::string& name, at::IntArrayRef shape) {
        return shelf_.add(name, maker_.normal(shape, name, 1.0));
    }
    /// torch.nn.Linear: weight and bias U(+-1/sqrt(in)).
    Affine linear(const std::string& weight, const std::string& bias, int64_t out, int64_t in) {
        const double bound = 1.0 / std::sqrt(static_cast<double>(in));
        const size_t w = uniform(weight, {out, in}, bound);
        return {w, uniform(bias, {out}, bound)};
    }
    at::Tensor apply(const Affine& affine, const at::Tensor& x) const {
        return at::linear(x, value(affine.weight), value(affine.bias));
    }

  private:
    const TensorMaker& maker_;  ///< only while it is built
    TensorShelf shelf_;
};

/// z_l = W2_l gelu(W1_l v + b1_l) + b2_l: an MLP per layer.
class LayerMlps final : public ShelvedRouter {
  public:
    LayerMlps(int64_t hidden, const TaskRouterShape& shape, const TensorMaker& maker, TensorShelf shelf)
        : ShelvedRouter(maker, std::move(shelf)) {
        for (const std::string& layer : shape.layers) {
            first_.push_back(linear(layer + ".router_w1", layer + ".router_b1", hidden, shape.width));
            second_.push_back(linear(layer + ".router_w2", layer + ".router_b2", shape.experts, hidden));
        }
    }
    at::Tensor logits(const at::Tensor& vectors, Generator*) const override {
        std::vector<at::Tensor> layers;
        for (size_t l = 0; l < first_.size(); ++l)
            layers.push_back(apply(second_[l], at::gelu(apply(first_[l], vectors))));
        return at::stack(layers);
    }

  private:
    std::vector<Affine> first_, second_;
};

/// One MLP whose output is all layers' logits side by side.
class SharedMlp final : public ShelvedRouter {
  public:
    SharedMlp(int64_t hidden, const TaskRouterShape& shape, const TensorMaker& maker, TensorShelf shelf)
        : ShelvedRouter(maker, std::move(shelf)),
          layers_(static_cast<int64_t>(shape.layers.size())),
          experts_(shape.experts),
          first_(linear("router.w1", "router.b1", hidden, shape.width)),
          second_(linear("router.w2", "router.b2", layers_ * experts_, hidden)) {}
    at::Tensor logits(const at::Tensor& vectors, Generator*) const override {
        return apply(second_, at::gelu(apply(first_, vectors)))
            .view({vectors.size(0), layers_, experts_})
            .transpose(0, 1);
    }

  private:
    int64_t layers_, experts_;
    Affine first_, second_;
};

/// A net over the sequence of layers, then one affine map per position. What stands at a layer's position is
/// the task's vector plus a learned embedding of the position, or ("_layer_specific") a projection of the
/// vector of the layer's own, `hidden` wide.
class SequenceRouter : public ShelvedRouter {
  public:
    at::Tensor logits(const at::Tensor& vectors, Generator* dropout) const override {
        at::Tensor x;
        if (own_projection_)
            x = apply(projection_, vectors).view({vectors.size(0), layers_, width_});
        else
            x = vectors.unsqueeze(1) + value(position_);
        return apply(head_, run(x, dropout)).transpose(0, 1);
    }

  protected:
    SequenceRouter(const TaskRouterOptions& options, const TaskRouterShape& shape, const TensorMaker& maker,
                   TensorShelf shelf)
        : ShelvedRouter(maker, std::move(shelf)),
          layers_(static_cast<int64_t>(shape.layers.size())),
          own_projection_(options.kind.ends_with("_layer_specific")),
          width_(own_projection_ ? options.hidden : shape.width) {
        if (own_projection_)
            projection_ = linear("router.projection_weight", "router.projection_bias",
                                 options.hidden * layers_, shape.width);
        else
            position_ = normal("router.position", {layers_, width_});
    }
    /// Must close a constructor: the net's output is `features` wide.
    void make_head(int64_t features, int64_t experts) {
        head_ = linear("router.head_weight", "router.head_bias", experts, features);
    }
    virtual at::Tensor run(const at::Tensor& x, Generator* dropout) const = 0;
    int64_t width() const { return width_; }

  private:
    int64_t layers_;
    bool own_projection_;
    int64_t width_;
    Affine projection_{}, head_{};
    size_t position_ = 0;
};

enum class Cell { rnn, gru, lstm };

/// Bidirectional, one layer; PyTorch's equations and U(+-1/sqrt(hidden)) start.
class RecurrentRouter final : public SequenceRouter {
  public:
    RecurrentRouter(Cell cell, const TaskRouterOptions& options, const TaskRouterShape& shape,
                    const TensorMaker& maker, TensorShelf shelf)
        : SequenceRouter(options, shape, maker, std::move(shelf)), cell_(cell), hidden_(options.hidden) {
        const int64_t gates = cell == Cell::lstm ? 4 : cell == Cell::gru ? 3 : 1;
        const double bound = 1.0 / std::sqrt(static_cast<double>(hidden_));
        for (const char* direction : {"", "_reverse"}) {
            const std::string end = direction;
            weights_.push_back(uniform("router.weight_ih" + end, {gates * hidden_, width()}, bound));
            weights_.push_back(uniform("router.weight_hh" + end, {gates * hidden_, hidden_}, bound));
            weights_.push_back(uniform("router.bias_ih" + end, {gates * hidden_}, bound));
            weights_.push_back(uniform("router.bias_hh" + end, {gates * hidden_}, bound));
        }
        make_head(2 * hidden_, shape.experts);
    }

  protected:
    at::Tensor run(const at::Tensor& x, Generator*) const override {
        std::vector<at::Tensor> weights;
        for (const size_t index : weights_) weights.push_back(value(index));
        const at::Tensor start = at::zeros({2, x.size(0), hidden_}, x.options());
        constexpr bool biases = true, train = false, bidirectional = true, batch_first = true;
        switch (cell_) {
            case Cell::lstm:
                return std::get<0>(
                    at::lstm(x, {start, start}, weights, biases, 1, 0.0, train, bidirectional, batch_first));
            case Cell::gru:
                return std::get<0>(
                    at::gru(x, start, weights, biases, 1, 0.0, train, bidirectional, batch_first));
            case Cell::rnn:
                break;
        }
        return std::get<0>(
            at::rnn_tanh(x, start, weights, biases, 1, 0.0, train, bidirectional, batch_first));
    }

  private:
    Cell cell_;
    int64_t hidden_;
    std::vector<size_t> weights_;
};

/// One post-norm encoder layer: four heads, 64 ReLU units, dropout after the attention weights and after each
/// of the three maps that follow.
class TransformerRouter final : public SequenceRouter {
  public:
    TransformerRouter(const TaskRouterOptions& options, const TaskRouterShape& shape,
                      const TensorMaker& maker, TensorShelf shelf)
        : SequenceRouter(options, shape, maker, std::move(shelf)), dropout_(options.dropout) {
        const int64_t d = width();
        if (d % heads)
            fail(Code::invalid_config, "task_moe.router: '", options.kind, "' has ", heads,
                 " heads, which do not divide its width of ", d,
                 options.kind == "transformer" ? " (task_vec_dim)" : " (router_hidden)");
        in_ = {uniform("router.attention_in_weight", {3 * d, d}, std::sqrt(6.0 / static_cast<double>(4 * d))),
               constant("router.attention_in_bias", {3 * d}, 0.0)};
        out_ = {uniform("router.attention_out_weight", {d, d}, 1.0 / std::sqrt(static_cast<double>(d))),
                constant("router.attention_out_bias", {d}, 0.0)};
        up_ = linear("router.up_weight", "router.up_bias", feed_forward, d);
        down_ = linear("router.down_weight", "router.down_bias", d, feed_forward);
        norm1_ = {constant("router.norm1_weight", {d}, 1.0), constant("router.norm1_bias", {d}, 0.0)};
        norm2_ = {constant("router.norm2_weight", {d}, 1.0), constant("router.norm2_bias", {d}, 0.0)};
        make_head(d, shape.experts);
    }

  protected:
    at::Tensor run(const at::Tensor& x, Generator* dropout) const override {
        const at::Tensor seen = norm(norm1_, x + drop(attend(x, dropout), dropout));
        return norm(norm2_, seen + drop(apply(down_, drop(at::relu(apply(up_, seen)), dropout)), dropout));
    }

  private:
    at::Tensor drop(const at::Tensor& x, Generator* dropout) const {
        if (!dropout || dropout_ == 0.0) return x;
        // A stream of its own for each call.
        const uint64_t high = dropout->next_u32();
        const Generator masks(high << 32 | dropout->next_u32());
        const int64_t width = x.size(-1);
        return x *
               dropout_mask(masks.state(), x.numel() / width, width, dropout_, x.device()).view(x.sizes());
    }
    at::Tensor norm(const Affine& affine, const at::Tensor& x) const {
        return at::layer_norm(x, {x.size(-1)}, value(affine.weight), value(affine.bias), norm_eps);
    }
    at::Tensor attend(const at::Tensor& x, Generator* dropout) const {
        const int64_t n = x.size(0), length = x.size(1), each = x.size(2) / heads;
        const at::Tensor qkv = apply(in_, x).view({n, length, 3, heads, each}).permute({2, 0, 3, 1, 4});
        const at::Tensor scores =
            at::matmul(qkv[0], qkv[1].transpose(-2, -1)) / std::sqrt(static_cast<double>(each));
        const at::Tensor mixed = at::matmul(drop(at::softmax(scores, -1), dropout), qkv[2]);
        return apply(out_, mixed.transpose(1, 2).reshape({n, length, heads * each}));
    }

    double dropout_;
    Affine in_{}, out_{}, up_{}, down_{}, norm1_{}, norm2_{};
};

}  // namespace

TaskRouterOptions TaskRouterOptions::read(ConfigReader& reader) {
    TaskRouterOptions options;
    options.kind = reader.choice(
        "router", "linear_layer_specific",
        {"linear_layer_specific", "linear", "rnn", "gru", "lstm", "transformer", "rnn_layer_specific",
         "gru_layer_specific", "lstm_layer_specific", "transformer_layer_specific"});
    options.hidden = reader.integer("router_hidden", 64, 1, 65536);
    if (options.kind.starts_with("transformer"))
        options.dropout = reader.number("router_dropout", 0.1, 0.0, 0.9);
    return options;
}

void TaskRouterOptions::write(Json& config) const {
    config["router"] = kind;
    config["router_hidden"] = hidden;
    if (kind.starts_with("transformer")) config["router_dropout"] = dropout;
}

std::unique_ptr<TaskRouter> make_task_router(const TaskRouterOptions& options, const TaskRouterShape& shape,
                                             const TensorMaker& maker, TensorShelf shelf) {
    const std::string& kind = options.kind;
    if (kind == "linear_layer_specific")
        return std::make_unique<LayerMlps>(options.hidden, shape, maker, std::move(shelf));
    if (kind == "linear") return std::make_unique<SharedMlp>(options.hidden, shape, maker, std::move(shelf));
    if (kind.starts_with("transformer"))
        return std::make_unique<TransformerRouter>(options, shape, maker, std::move(shelf));
    const Cell cell = kind.starts_with("lstm") ? Cell::lstm : kind.starts_with("gru") ? Cell::gru : Cell::rnn;
    return std::make_unique<RecurrentRouter>(cell, options, shape, maker, std::move(shelf));
}

}  // namespace polyad
