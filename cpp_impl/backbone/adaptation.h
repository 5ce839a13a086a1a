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

/// Tokens of a feed-forward spread over copies of it that differ in their updates alone:
///     FFN(h)_n = sum over the m with token[m] = n of  weight[m] FFN_copy(m)(h_n)
/// What is frozen then runs once per token, not once per copy. Its sites are asked at() with the copies' M
/// tokens, in `rows`; trained weights, output scales and feed_forward() are not asked for.
struct Spread {
    std::vector<int32_t> token;  ///< [M] positions of h, copy by copy
    RowBegin rows;               ///< [copies + 1]: which of the M a copy has
    at::Tensor weight;           ///< [M] float32; may carry history
};

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
    /// Asked for each feed-forward with its input h [N, width]: how its tokens spread over copies; nullopt =
    /// one copy has them all.
    virtual std::optional<Spread> spread(int /*layer*/, const at::Tensor& /*h*/) { return std::nullopt; }
    /// How many copies of a layer run side by side on its input x [N, width] instead of the layer; 0 = just
    /// the layer. enter() is then called before each copy and join() with all residual streams after it.
    virtual int copies(int /*layer*/, const at::Tensor& /*x*/) { return 0; }
    virtual void enter(int /*layer*/, int /*copy*/) {}
    /// Which rows of the batch a copy is asked for, ascending. nullopt = all, empty = none. A hint, asked
    /// before enter(): join() gets an undefined output for none, and for a part either its rows' positions
    /// alone or all of them.
    virtual std::optional<std::vector<int64_t>> copy_part(int /*layer*/, int /*copy*/) {
        return std::nullopt;
    }
    virtual at::Tensor join(int /*layer*/, const std::vector<at::Tensor>& outputs) { return outputs.front(); }
};

}  // namespace polyad
