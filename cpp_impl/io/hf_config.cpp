// SPDX-License-Identifier: Apache-2.0
#include "io/hf_config.h"

#include <cmath>

#include "io/file_json.h"

namespace polyad {
namespace {

// Sane maxima: far above any published model, low enough that no product of two of them overflows.
constexpr int64_t max_width = 1 << 20, max_layers = 4096, max_heads = 1 << 16, max_ffn = 1 << 24,
                  max_vocab = 1 << 24;
constexpr int64_t max_context = int64_t{1} << 40, max_buckets = 1 << 16;
constexpr Family families[] = {Family::llama, Family::qwen2, Family::qwen3, Family::mistral,
                               Family::t5,    Family::bart,  Family::bert};

bool rotary(Family family) {
    return family <= Family::mistral;
}

int64_t required(ConfigReader& in, const char* key, int64_t max) {
    if (!in.has(key)) in.refuse(key, "is missing");
    return in.integer(key, 0, 1, max);
}

Activation activation_of(ConfigReader& in, const char* key, const char* fallback) {
    const std::string name = in.choice(
        key, fallback, {"silu", "swish", "relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast"});
    if (name == "silu" || name == "swish") return Activation::silu;
    if (name == "relu") return Activation::relu;
    return name == "gelu" ? Activation::gelu : Activation::gelu_tanh;
}

/// A key's integer, telling "absent" from "null", which mean different things for heads and windows.
int64_t integer_or(ConfigReader& in, const Json& json, const char* key, int64_t absent, int64_t null,
                   int64_t max) {
    if (!json.contains(key)) return absent;
    return in.has(key) ? in.integer(key, 0, 1, max) : null;
}

void read_rope(const Json& json, ConfigReader& in, ModelConfig& c) {
    c.rope_theta = in.number("rope_theta", 10000.0, 1e-6, 1e15);
    // transformers 5 keeps theta and scaling together in rope_parameters.
    const char* key = in.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
    if (!in.has(key)) return;
    if (!json[key].is_object()) in.refuse(key, "needs an object");
    ConfigReader rope(json[key], key);
    c.rope_theta = rope.number("rope_theta", c.rope_theta, 1e-6, 1e15);
    const std::string type = rope.string("rope_type", rope.string("type", "default"));
    if (type == "default") return;
    RopeScaling& s = c.rope_scaling;
    if (type == "linear") {
        s.kind = RopeScaling::Kind::linear;
    } else if (type == "llama3") {
        s.kind = RopeScaling::Kind::llama3;
        s.low_freq_factor = rope.number("low_freq_factor", 1.0, 1e-6, 1e6);
        s.high_freq_factor = rope.number("high_freq_factor", 4.0, 1e-6, 1e6);
        s.original_context = required(rope, "original_max_position_embeddings", max_context);
    } else {
        fail(Code::unsupported, "rope scaling '", type,
             "' is not supported, allowed: default, linear, llama3");
    }
    if (!rope.has("factor")) rope.refuse("factor", "is missing");
    s.factor = rope.number("factor", 1.0, 1e-6, 1e6);
}

void read_windows(const Json& json, ConfigReader& in, ModelConfig& c) {
    const bool mistral = c.family == Family::mistral;
    const bool used = mistral || ((c.family == Family::qwen2 || c.family == Family::qwen3) &&
                                  in.boolean("use_sliding_window", false));
    if (!used) return;
    c.sliding_window = integer_or(in, json, "sliding_window", 4096, 0, max_context);
    if (c.sliding_window == 0) return;
    if (in.has("layer_types")) {
        const auto types = in.strings("layer_types", {});
        if (static_cast<int64_t>(types.size()) != c.layers)
            in.refuse("layer_types", text("lists ", types.size(), " layers of ", c.layers));
        for (const std::string& type : types) {
            if (type != "full_attention" && type != "sliding_attention")
                in.refuse("layer_types",
                          text("'", type, "' is not known, allowed: full_attention, sliding_attention"));
            c.sliding_layers.push_back(type == "sliding_attention");
        }
    } else if (!mistral) {
        const int64_t first = in.integer("max_window_layers", 28, 0, max_layers);
        for (int64_t i = 0; i < c.layers; ++i) c.sliding_layers.push_back(i >= first);
    }
}

void read_rotary(const Json& json, ConfigReader& in, ModelConfig& c) {
    c.width = required(in, "hidden_size", max_width);
    c.layers = required(in, "num_hidden_layers", max_layers);
    c.heads = required(in, "num_attention_heads", max_heads);
    c.ffn = required(in, "intermediate_size", max_ffn);
    const int64_t kv_absent = c.family == Family::llama ? c.heads : c.family == Family::mistral ? 8 : 32;
    c.kv_heads = integer_or(in, json, "num_key_value_heads", kv_absent, c.heads, max_heads);
    const int64_t shared = c.width % c.heads == 0 ? c.width / c.heads : 0;  // 0: validate() explains
    c.head_dim =
        integer_or(in, json, "head_dim", c.family == Family::qwen3 ? 128 : shared, shared, max_width);
    c.rotary_dim = c.head_dim;
    c.context = in.integer("max_position_embeddings", 2048, 1, max_context);
    c.norm_eps = in.number("rms_norm_eps", 1e-6, 0.0, 1.0);
    c.activation = activation_of(in, "hidden_act", "silu");
    if (in.number("partial_rotary_factor", 1.0, 0.0, 1.0) != 1.0)
        fail(Code::unsupported, "partial_rotary_factor other than 1 is not supported");
    read_rope(json, in, c);
    const bool bias = in.boolean("attention_bias", false);
    c.qkv_bias =
        c.family == Family::qwen2 || ((c.family == Family::llama || c.family == Family::qwen3) && bias);
    c.output_bias = c.family != Family::qwen2 && c.family != Family::mistral && bias;
    c.mlp_bias = c.family == Family::llama && in.boolean("mlp_bias", false);
    c.qk_norm = c.family == Family::qwen3;
    read_windows(json, in, c);
}

void read_t5(ConfigReader& in, ModelConfig& c) {
    c.width = required(in, "d_model", max_width);
    c.layers = required(in, "num_layers", max_layers);
    c.decoder_layers = in.integer("num_decoder_layers", c.layers, 1, max_layers);
    c.heads = c.kv_heads = c.decoder_heads = required(in, "num_heads", max_heads);
    c.head_dim = required(in, "d_kv", max_width);
    c.ffn = c.decoder_ffn = required(in, "d_ff", max_ffn);
    c.norm_eps = in.number("layer_norm_epsilon", 1e-6, 0.0, 1.0);
    c.relative_buckets = in.integer("relative_attention_num_buckets", 32, 4, max_buckets);
    c.relative_max_distance = in.integer("relative_attention_max_distance", 128, 1, max_context);
    const std::string kind = in.choice("feed_forward_proj", "relu",
                                       {"relu", "gelu", "silu", "gated-relu", "gated-gelu", "gated-silu"});
    c.gated_ffn = kind.starts_with("gated-");
    if (kind == "gated-gelu")
        c.activation = Activation::gelu_tanh;
    else if (kind.ends_with("relu"))
        c.activation = Activation::relu;
    else
        c.activation = kind.ends_with("silu") ? Activation::silu : Activation::gelu;
    c.scale_decoder_output = c.tied;
}

void read_bart(ConfigReader& in, ModelConfig& c) {
    c.width = required(in, "d_model", max_width);
    c.layers = required(in, "encoder_layers", max_layers);
    c.decoder_layers = required(in, "decoder_layers", max_layers);
    c.heads = c.kv_heads = required(in, "encoder_attention_heads", max_heads);
    c.decoder_heads = required(in, "decoder_attention_heads", max_heads);
    c.ffn = required(in, "encoder_ffn_dim", max_ffn);
    c.decoder_ffn = required(in, "decoder_ffn_dim", max_ffn);
    c.head_dim = c.width % c.heads == 0 ? c.width / c.heads : 0;
    c.context = in.integer("max_position_embeddings", 1024, 1, max_context);
    c.norm_eps = 1e-5;  // hard-coded in the published model code
    c.activation = activation_of(in, "activation_function", "gelu");
    c.scale_embedding = in.boolean("scale_embedding", false);
    c.position_offset = 2;
}

void read_bert(ConfigReader& in, ModelConfig& c) {
    c.width = required(in, "hidden_size", max_width);
    c.layers = required(in, "num_hidden_layers", max_layers);
    c.heads = c.kv_heads = required(in, "num_attention_heads", max_heads);
    c.head_dim = c.width % c.heads == 0 ? c.width / c.heads : 0;
    c.ffn = required(in, "intermediate_size", max_ffn);
    c.context = in.integer("max_position_embeddings", 512, 1, max_context);
    c.norm_eps = in.number("layer_norm_eps", 1e-12, 0.0, 1.0);
    c.activation = activation_of(in, "hidden_act", "gelu");
    c.type_vocab = in.integer("type_vocab_size", 2, 1, max_vocab);
    in.choice("position_embedding_type", "absolute", {"absolute"});
    if (in.boolean("is_decoder", false))
        fail(Code::unsupported, "a BERT decoder (is_decoder) is not supported");
}

void add_eos(ModelConfig& c, int64_t id) {
    if (id < 0 || id >= c.vocab) return;
    for (int64_t known : c.eos_ids)
        if (known == id) return;
    c.eos_ids.push_back(id);
}

int64_t token_or_none(const ModelConfig& c, const Json& value) {
    const bool whole =
        value.is_number_integer() && !(value.is_number_unsigned() && value.get<uint64_t>() > max_vocab);
    const int64_t id = whole ? value.get<int64_t>() : -1;
    return id >= 0 && id < c.vocab ? id : -1;
}

void read_special_tokens(const Json& json, ModelConfig& c) {
    const auto read = [&](const char* key) { return json.contains(key) ? token_or_none(c, json[key]) : -1; };
    c.bos_id = read("bos_token_id");
    c.pad_id = read("pad_token_id");
    c.decoder_start_id = read("decoder_start_token_id");
    if (!json.contains("eos_token_id")) return;
    const Json& eos = json["eos_token_id"];
    if (!eos.is_array()) return add_eos(c, token_or_none(c, eos));
    for (const Json& id : eos) add_eos(c, token_or_none(c, id));
}

ModelConfig read_config(const Json& json, const std::string& source) {
    ConfigReader in(json, source);
    ModelConfig c;
    const std::string type = in.string("model_type", "");
    bool known = false;
    for (Family family : families)
        if (type == family_name(family)) c.family = family, known = true;
    if (!known)
        fail(Code::unsupported, source, ": model_type '", type,
             "' is not known, allowed: ", known_families());
    if (in.has("quantization_config"))
        fail(Code::unsupported, source,
             ": quantization_config is not supported; use plain safetensors or a GGUF file");
    const auto names = in.strings("architectures", {});
    c.architecture = names.empty() ? type : names.front();
    c.vocab = required(in, "vocab_size", max_vocab);
    c.tied = in.boolean("tie_word_embeddings", !rotary(c.family));
    if (rotary(c.family))
        read_rotary(json, in, c);
    else if (c.family == Family::t5)
        read_t5(in, c);
    else if (c.family == Family::bart)
        read_bart(in, c);
    else
        read_bert(in, c);
    read_special_tokens(json, c);
    return c;
}

}  // namespace

const char* family_name(Family family) {
    static constexpr const char* names[] = {"llama", "qwen2", "qwen3", "mistral", "t5", "bart", "bert"};
    return names[static_cast<int>(family)];
}

const char* activation_name(Activation activation) {
    static constexpr const char* names[] = {"silu", "relu", "gelu", "gelu_tanh"};
    return names[static_cast<int>(activation)];
}

std::string known_families() {
    std::string out;
    for (Family family : families) out += (out.empty() ? "" : ", ") + std::string(family_name(family));
    return out;
}

ModelConfig parse_hf_config(std::string_view json_text, const std::string& source) {
    const Json json = parse_file_json(json_text, source);
    const ModelConfig config = reading_file([&] { return read_config(json, source); });
    validate(config, source);
    return config;
}

void validate(const ModelConfig& c, const std::string& source) {
    const auto within = [&](const char* what, int64_t value, int64_t min, int64_t max) {
        if (value < min || value > max)
            fail(Code::bad_format, source, ": ", what, " = ", value, ", allowed: ", min, " to ", max);
    };
    const auto divides = [&](const char* what, int64_t whole, int64_t part) {
        if (part < 1 || whole % part != 0)
            fail(Code::bad_format, source, ": ", what, ": ", part, " does not divide ", whole);
    };
    within("width", c.width, 1, max_width);
    within("layers", c.layers, 1, max_layers);
    within("heads", c.heads, 1, max_heads);
    within("key-value heads", c.kv_heads, 1, c.heads);
    if (c.family == Family::bart || c.family == Family::bert || c.head_dim == 0)
        divides("width over heads", c.width, c.heads);
    within("head_dim", c.head_dim, 1, max_width);
    divides("heads over key-value heads", c.heads, c.kv_heads);
    within("ffn", c.ffn, 1, max_ffn);
    within("vocabulary", c.vocab, 1, max_vocab);
    within("context", c.context, c.family == Family::t5 ? 0 : 1, max_context);
    if (c.encoder_decoder()) {
        within("decoder layers", c.decoder_layers, 1, max_layers);
        within("decoder heads", c.decoder_heads, 1, max_heads);
        within("decoder ffn", c.decoder_ffn, 1, max_ffn);
        if (c.family == Family::bart) divides("width over decoder heads", c.width, c.decoder_heads);
    }
    if (!std::isfinite(c.norm_eps) || c.norm_eps < 0 || c.norm_eps > 1)
        fail(Code::bad_format, source, ": norm epsilon = ", c.norm_eps, ", allowed: 0 to 1");
    if (!rotary(c.family)) return;
    if (c.head_dim % 2 != 0)
        fail(Code::bad_format, source, ": head_dim = ", c.head_dim, ", rotary needs an even one");
    if (!std::isfinite(c.rope_theta) || c.rope_theta <= 0)
        fail(Code::bad_format, source, ": rope base = ", c.rope_theta, ", it must be positive and finite");
    if (!std::isfinite(c.rope_scaling.factor) || c.rope_scaling.factor <= 0)
        fail(Code::bad_format, source, ": rope scaling factor = ", c.rope_scaling.factor,
             ", it must be positive");
    if (c.rope_scaling.kind == RopeScaling::Kind::llama3 &&
        c.rope_scaling.low_freq_factor >= c.rope_scaling.high_freq_factor)
        fail(Code::bad_format, source, ": rope scaling: low_freq_factor must be below high_freq_factor");
    within("sliding window", c.sliding_window, 0, max_context);
}

Json ModelConfig::to_json() const {
    static constexpr const char* scalings[] = {"none", "linear", "llama3"};
    return {
        {"family", family_name(family)},
        {"sizes",
         {width, layers, heads, kv_heads, head_dim, ffn, vocab, decoder_layers, decoder_heads, decoder_ffn}},
        {"norm_eps", norm_eps},
        {"activation", activation_name(activation)},
        {"tied", tied},
        {"rope",
         {rope_theta, scalings[static_cast<int>(rope_scaling.kind)], rope_scaling.factor,
          rope_scaling.low_freq_factor, rope_scaling.high_freq_factor, rope_scaling.original_context,
          rotary_dim}},
        {"flags",
         {qkv_bias, output_bias, mlp_bias, qk_norm, gated_ffn, scale_decoder_output, scale_embedding}},
        {"window", {sliding_window, sliding_layers}},
        {"positions", {relative_buckets, relative_max_distance, position_offset, type_vocab}}};
}

}  // namespace polyad
