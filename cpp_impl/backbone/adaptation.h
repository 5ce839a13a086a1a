// SPDX-License-Identifier: Apache-2.0
// What a backbone offers to adapters (sites) and asks of them (an Adaptation per forward).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backbone/batch.h"
#include "backbone/low_rank.h"

namespace polyad {

/// Whose rows a site's input has.
enum class Stream {
    tokens,  ///< Batch::tokens: every site of a decoder-only model, and the decoder's own
    source,  ///< Batch::source: encoder sites, and the keys and values of cross-attention
};

/// What a site does in its layer.
enum class Role {
    attention,         ///< query, key, value or output projection
    feed_forward_in,   ///< gate and up projections
    feed_forward_out,  ///< the projection back to the model's width
};

/// One adapted place: a linear of the backbone.
struct Site {
    int index = 0;     ///< position in Backbone::sites()
    std::string path;  ///< Hugging Face module path, e.g. "model.layers.0.self_attn.q_proj"
    int layer = 0;     ///< transformer layer, counted from 0 (decoder layers of an encoder-decoder follow on)
    int64_t d_in = 0, d_out = 0;
    Role role = Role::attention;
    Stream stream = Stream::tokens;

    /// Last path part ("q_proj"): what target_modules names.
    std::string name() const { return path.substr(path.rfind('.') + 1); }
};

/// A gain of the backbone's norms: what methods that train norms replace.
struct NormSite {
    std::string path;  ///< Hugging Face parameter path, e.g. "model.layers.0.input_layernorm.weight"
    int layer = 0;     ///< -1 = belongs to no layer (the final norm)
    int64_t width = 0;
};

/// What a copy stands for.
enum class Block { layer, feed_forward };

class Backbone;
struct ForwardOptions;

/// One forward's adapters. Made by a skillset for one batch; the backbone asks it at every site, in the order
/// it runs them. Only at() matters to most methods: what follows it are the places a few need, and leaves the
/// backbone as it is by default.
class Adaptation {
  public:
    virtual ~Adaptation() = default;
    /// Updates of `site` for the batch the adaptation was made for. x [N, d_in] is the site's own input; N is
    /// counted in the site's stream, prefix positions included.
    virtual std::vector<LowRank> at(const Site& site, const at::Tensor& x) = 0;

    /// Called once, before anything of a forward is computed.
    virtual void begin(const Backbone& /*backbone*/, const Batch& /*batch*/,
                       const ForwardOptions& /*options*/) {}
    /// Trained positions put before each row of the stream that reads the prompt (the encoder's, if there is
    /// one): [n_b, width] per row, undefined = none; empty = none at all. Asked after begin(), only for rows
    /// that bring their prompt; the rows' sites then see n_b more tokens, hidden() returns the batch's own.
    virtual std::vector<at::Tensor> prefix() { return {}; }
    /// The encoder's final states [M, width] (prefix included, after its last norm) of the rows that bring
    /// their source, before the decoder runs.
    virtual void encoded(const at::Tensor& /*states*/) {}
    /// What a layer's feed-forward adds to the residual: y [N, width], made from u [N, d_ff], the input of
    /// its output projection.
    virtual at::Tensor feed_forward(int /*layer*/, const at::Tensor& /*u*/, const at::Tensor& y) { return y; }
    /// A trained tensor in place of the frozen weight or gain of this path; undefined = the frozen one. A
    /// gain is [width], or has a line per token, or in a decoder-only model one per row.
    virtual at::Tensor weight(const std::string& /*path*/) { return {}; }
    /// DoRA: factor on the output of a linear, bias excluded, [d_out]; undefined = 1. `site`'s own updates
    /// have been asked for before.
    virtual at::Tensor output_scale(const Site& /*site*/) { return {}; }
    /// How many copies of a block run side by side on its input x [N, width] instead of the block; 0 = just
    /// the block. enter() is then called before each copy and join() with all outputs: of the layer, the
    /// residual stream after it; of the feed-forward, what it adds.
    virtual int copies(Block /*block*/, int /*layer*/, const at::Tensor& /*x*/) { return 0; }
    virtual void enter(Block /*block*/, int /*layer*/, int /*copy*/) {}
    /// What of the block's input a copy is asked for, ascending: rows of the batch (layer), positions of x
    /// (feed-forward). nullopt = everything, empty = nothing. A hint, asked before enter(): join() gets an
    /// undefined output for nothing, and for a part either its positions alone or all of them.
    virtual std::optional<std::vector<int64_t>> copy_part(Block /*block*/, int /*layer*/, int /*copy*/) {
        return std::nullopt;
    }
    virtual at::Tensor join(Block /*block*/, int /*layer*/, const std::vector<at::Tensor>& outputs) {
        return outputs.front();
    }
};

}  // namespace polyad
