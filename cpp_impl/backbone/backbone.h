// SPDX-License-Identifier: Apache-2.0
// The frozen base model: weights, tokenizer, sites. Immutable after opening, shared by any number of trainers
// and engines, safe for concurrent use.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "backbone/adaptation.h"
#include "backbone/batch.h"
#include "base/bytes.h"
#include "base/config.h"
#include "text/tokenizer.h"

namespace polyad {

enum class Precision { automatic, fp32, bf16 };  ///< automatic: bf16 where the CPU multiplies it fast
enum class WeightStorage {
    automatic,
    packed,
    expanded
};  ///< keep quantised weights as they are, or expand once

struct BackboneOptions {
    Precision precision = Precision::automatic;
    WeightStorage weights = WeightStorage::automatic;
    at::Device device = at::kCPU;  ///< of the context (backbone/cuda.h opens one); no option in JSON
    /// {"precision": "auto|fp32|bf16", "weights": "auto|packed|expanded"}
    static BackboneOptions from_json(const Json& object);
};

struct BackboneInfo {
    std::string name;         ///< file or folder name
    std::string family;       ///< "llama", "qwen2", "qwen3", "mistral", ...
    std::string fingerprint;  ///< hex digest over config and weights; a bundle remembers it
    int64_t layers = 0;       ///< all of them; an encoder-decoder's encoder layers come first
    int64_t encoder_layers = 0;
    int64_t width = 0, vocab = 0, context = 0, parameters = 0;
    bool encoder_decoder = false;
    bool encoder_only = false;   ///< BERT: states, no output head
    int32_t decoder_start = -1;  ///< token an encoder-decoder's decoder begins with
};

class KvCache;
class DecodeStep;
class Recorder;

/// One forward's inputs beyond the batch itself.
struct ForwardOptions {
    Adaptation* adaptation = nullptr;  ///< null: the backbone alone
    KvCache* cache = nullptr;          ///< append to and attend over these rows' past
    std::vector<int> slots;            ///< [rows] cache slot of each row; used with `cache`
    at::Tensor embeddings;             ///< [N, width] instead of looking up batch.tokens (gradients, prompts)
    /// From make_decode_step(), set to the batch's tokens: nothing is read from host memory, and the caller
    /// has made room in the cache and lets it grow.
    const DecodeStep* step = nullptr;
    std::vector<at::Tensor>* trace = nullptr;  ///< receives the input of layer 0 and every layer's output
    /// What may be kept for the backward pass, bytes; 0 = everything. Beyond it, layers make their widest
    /// activations again when their turn comes: the same numbers, more time.
    int64_t activation_bytes = 0;
};

class Backbone {
  public:
    /// A GGUF file, or a Hugging Face folder (config.json + safetensors).
    static std::shared_ptr<const Backbone> open(const std::filesystem::path& path,
                                                const BackboneOptions& options = {});
    /// A GGUF file in memory.
    static std::shared_ptr<const Backbone> open(const Bytes& gguf, const BackboneOptions& options = {});

    virtual ~Backbone() = default;

    virtual const BackboneInfo& info() const = 0;
    virtual const std::vector<Site>& sites() const = 0;
    /// Gains and biases of the norms.
    virtual const std::vector<NormSite>& norms() const = 0;
    /// A frozen tensor by Hugging Face path ("<site path>.weight", "<site path>.bias", a NormSite's path), a
    /// float32 copy; undefined when the model has none there.
    virtual at::Tensor frozen(const std::string& path) const = 0;
    /// x W^T of the frozen linear at `path` (a site's) alone, no bias, no gradients: x [n, d_in] -> float32
    /// [n, d_out]; undefined when the model has none there. Costs no copy of the weight where the backbone
    /// can do so.
    virtual at::Tensor frozen_product(const std::string& path, const at::Tensor& x) const;
    /// Null when the model came without one (tiny fixtures).
    virtual const std::shared_ptr<const Tokenizer>& tokenizer() const = 0;
    /// True when hidden() takes batches whose rows share beginnings (Batch::parent).
    virtual bool shares_beginnings() const { return false; }
    /// What ForwardOptions::activation_bytes can spare a forward of `tokens` before it costs more than
    /// computing the batch in two parts, bytes.
    virtual int64_t spared_bytes(int64_t) const { return 0; }
    /// Dtype activations are kept in (float or bfloat16).
    virtual at::ScalarType compute_dtype() const = 0;
    /// Where weights and activations lie. What is given to a backbone or trained over it lies there, too.
    virtual at::Device device() const { return at::kCPU; }

    /// Token embeddings [N, width] in compute dtype.
    virtual at::Tensor embed(const std::vector<int32_t>& tokens) const = 0;
    /// Hidden states after the final norm, [N, width].
    virtual at::Tensor hidden(const Batch& batch, const ForwardOptions& options = {}) const = 0;
    /// Output head on selected hidden rows: [M, width] -> float32 [M, vocab].
    virtual at::Tensor logits(const at::Tensor& hidden) const = 0;
    /// Negative log likelihood per row of `hidden` [M, width] against targets [M], float32 [M]; computed in
    /// chunks that never hold more than a few MiB of logits. Differentiable in `hidden`. Label smoothing as
    /// in methods.md.
    virtual at::Tensor token_nll(const at::Tensor& hidden, const std::vector<int32_t>& targets,
                                 double label_smoothing = 0.0) const = 0;
    /// A cache for `slots` rows of up to `capacity` tokens each (prefix positions of a method included).
    virtual std::unique_ptr<KvCache> make_cache(int slots, int capacity) const = 0;
    /// For recordings of steps that give each of `rows` rows one token and have at most `keys` keys a row;
    /// null where a step cannot be recorded. `recorder` must outlive it.
    virtual std::unique_ptr<DecodeStep> make_decode_step(int rows, int keys, Recorder& recorder) const;
};

/// Keys and values of past tokens. One caller at a time.
class KvCache {
  public:
    virtual ~KvCache() = default;
    virtual int slots() const = 0;
    virtual int capacity() const = 0;
    virtual int length(int slot) const = 0;
    /// Forgets tokens from `length` on (0 = empty the slot).
    virtual void truncate(int slot, int length) = 0;
    /// Bytes a row of `tokens` tokens takes, prefix positions included; `source`: tokens its encoder reads. 0
    /// = not counted.
    virtual int64_t bytes_for(int64_t /*tokens*/, int64_t /*source*/) const { return 0; }
};

}  // namespace polyad
