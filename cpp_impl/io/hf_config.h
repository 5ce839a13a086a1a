// SPDX-License-Identifier: Apache-2.0
// What a backbone must know about a model, from a Hugging Face config.json or from GGUF metadata. Validated:
// every number is finite and sane, heads divide, and nothing here can make a caller allocate beyond the
// file's tensors.
#pragma once

#include <string>
#include <vector>

#include "base/config.h"
#include "io/gguf.h"

namespace polyad {

enum class Family { llama, qwen2, qwen3, mistral, t5, bart, bert };
const char* family_name(Family family);

enum class Activation { silu, relu, gelu, gelu_tanh };  ///< gelu: the erf form
const char* activation_name(Activation activation);

/// How rotary frequencies f_i = theta^(-2i/rotary_dim) are changed (fixtures/README section 2 has llama3's
/// formula).
struct RopeScaling {
    enum class Kind { none, linear, llama3 } kind = Kind::none;
    double factor = 1.0;  ///< linear: f / factor
    double low_freq_factor = 1.0, high_freq_factor = 4.0;
    int64_t original_context = 0;  ///< llama3
};

struct ModelConfig {
    Family family = Family::llama;
    std::string architecture;  ///< as the file names it: "LlamaForCausalLM", "llama", ...

    // Decoder-only: the decoder. BERT: the encoder. T5 and BART: the encoder; decoder_* hold the other stack.
    int64_t width = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, vocab = 0;
    int64_t context =
        0;  ///< max_position_embeddings; T5: 0 (no limit of its own). Never allocate from it up front.
    int64_t decoder_layers = 0, decoder_heads = 0, decoder_ffn = 0;  ///< encoder-decoder only

    double norm_eps = 1e-6;  ///< RMS norm (llama ... t5) or layer norm (bart, bert)
    Activation activation = Activation::silu;
    bool tied = false;  ///< output head = token embedding

    // Rotary families.
    double rope_theta = 10000.0;
    RopeScaling rope_scaling;
    int64_t rotary_dim = 0;  ///< == head_dim
    bool qkv_bias = false, output_bias = false, mlp_bias = false;
    bool qk_norm = false;        ///< per-head RMS norm on q and k (qwen3)
    int64_t sliding_window = 0;  ///< 0: none
    std::vector<uint8_t>
        sliding_layers;  ///< [layers] 1 = the window applies; empty = it applies to every layer

    /// Window of one layer, 0 = unlimited.
    int64_t window(int64_t layer) const {
        return sliding_layers.empty() || sliding_layers[static_cast<size_t>(layer)] ? sliding_window : 0;
    }

    // T5.
    int64_t relative_buckets = 0, relative_max_distance = 0;
    bool gated_ffn = false;             ///< wi_0, wi_1 instead of wi
    bool scale_decoder_output = false;  ///< tied T5: decoder output * width^-0.5 before the head
    // BART.
    bool scale_embedding = false;  ///< token embedding * sqrt(width)
    int64_t position_offset = 0;   ///< learned position row = position + offset (BART: 2)
    // BERT.
    int64_t type_vocab = 0;

    // Special tokens as the config names them, -1 when absent; ids beyond the vocabulary count as absent.
    int64_t bos_id = -1, pad_id = -1, decoder_start_id = -1;
    std::vector<int64_t> eos_ids;

    bool encoder_decoder() const { return family == Family::t5 || family == Family::bart; }
    /// Rows of q (and the o projection's input) and of k, v.
    int64_t q_width() const { return heads * head_dim; }
    int64_t kv_width() const { return kv_heads * head_dim; }
    /// Canonical JSON of every field above that changes results; part of the fingerprint.
    Json to_json() const;
};

/// From config.json's text. Code::unsupported names an unknown model_type; Code::bad_format names a key, what
/// it holds and what is allowed.
ModelConfig parse_hf_config(std::string_view json_text, const std::string& source);
/// From metadata `<architecture>.*` and the tensors present (tied head, biases, vocabulary).
ModelConfig gguf_model_config(const GgufFile& file);
/// Checks shared by both: positive, divisible, finite, within sane maxima.
void validate(const ModelConfig& config, const std::string& source);

/// Family names parse_hf_config knows, for messages: "llama, qwen2, ...".
std::string known_families();

}  // namespace polyad
