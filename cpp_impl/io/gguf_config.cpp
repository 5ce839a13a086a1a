// SPDX-License-Identifier: Apache-2.0
// A model's config from GGUF metadata: keys "<architecture>.*", and what only the tensors tell (tied head,
// biases).
#include "base/error.h"
#include "io/hf_config.h"

namespace polyad {
namespace {

class Keys {
  public:
    explicit Keys(const GgufFile& file) : file_(file), prefix_(file.architecture() + ".") {}

    int64_t required(const char* key) const {
        if (const auto value = file_.integer(prefix_ + key)) return *value;
        fail(Code::bad_format, file_.name(), ": metadata '", prefix_, key, "' is missing");
    }
    int64_t integer(const char* key, int64_t fallback) const {
        return file_.integer(prefix_ + key).value_or(fallback);
    }
    double number(const char* key, double fallback) const {
        return file_.number(prefix_ + key).value_or(fallback);
    }
    std::string string(const char* key, const char* fallback) const {
        return file_.string(prefix_ + key).value_or(fallback);
    }

  private:
    const GgufFile& file_;
    std::string prefix_;
};

int64_t token(const GgufFile& file, const char* key, int64_t vocab) {
    const int64_t id = file.integer(std::string("tokenizer.ggml.") + key).value_or(-1);
    return id < vocab ? id : -1;
}

}  // namespace

ModelConfig gguf_model_config(const GgufFile& file) {
    ModelConfig c;
    c.architecture = file.architecture();
    if (c.architecture == "llama")
        c.family = Family::llama;
    else if (c.architecture == "qwen2")
        c.family = Family::qwen2;
    else if (c.architecture == "qwen3")
        c.family = Family::qwen3;
    else
        fail(Code::unsupported, file.name(), ": architecture '", c.architecture.substr(0, 80),
             "' is not known for GGUF, allowed: llama, qwen2, qwen3");
    const Keys keys(file);
    if (keys.integer("expert_count", 0) != 0)
        fail(Code::unsupported, file.name(), ": mixture-of-experts models are not supported");

    c.width = keys.required("embedding_length");
    c.layers = keys.required("block_count");
    c.heads = keys.required("attention.head_count");
    c.kv_heads = keys.integer("attention.head_count_kv", c.heads);
    c.ffn = keys.required("feed_forward_length");
    c.context = keys.required("context_length");
    const int64_t shared = c.heads > 0 && c.width % c.heads == 0 ? c.width / c.heads : 0;
    c.head_dim = keys.integer("attention.key_length", shared);
    if (keys.integer("attention.value_length", c.head_dim) != c.head_dim)
        fail(Code::unsupported, file.name(), ": key and value heads of different size are not supported");
    c.rotary_dim = keys.integer("rope.dimension_count", c.head_dim);
    if (c.rotary_dim != c.head_dim)
        fail(Code::unsupported, file.name(), ": rope.dimension_count = ", c.rotary_dim, " with heads of ",
             c.head_dim, ": partial rotary embeddings are not supported");

    const StoredTensor* embedding = file.find_tensor("token_embd.weight");
    if (!embedding || embedding->shape.size() != 2)
        fail(Code::bad_format, file.name(), ": tensor 'token_embd.weight' is missing or not a matrix");
    c.vocab = embedding->shape[0];
    if (const int64_t stated = keys.integer("vocab_size", c.vocab); stated != c.vocab)
        fail(Code::bad_format, file.name(), ": vocab_size = ", stated, ", token_embd.weight has ", c.vocab,
             " rows");
    c.tied = !file.find_tensor("output.weight");

    c.norm_eps = keys.number("attention.layer_norm_rms_epsilon", -1.0);  // validate() refuses an absent one
    c.rope_theta = keys.number("rope.freq_base", 10000.0);
    const std::string scaling = keys.string("rope.scaling.type", "none");
    if (scaling == "linear") {
        c.rope_scaling.kind = RopeScaling::Kind::linear;
        c.rope_scaling.factor = keys.number("rope.scaling.factor", 1.0);
    } else if (scaling != "none") {
        fail(Code::unsupported, file.name(), ": rope scaling '", scaling.substr(0, 80),
             "' is not supported, allowed: none, linear");
    }
    c.sliding_window = keys.integer("attention.sliding_window", 0);
    c.qkv_bias = c.family == Family::qwen2 || file.find_tensor("blk.0.attn_q.bias");
    c.output_bias = file.find_tensor("blk.0.attn_output.bias");
    c.mlp_bias = file.find_tensor("blk.0.ffn_gate.bias");
    c.qk_norm = c.family == Family::qwen3;
    c.bos_id = token(file, "bos_token_id", c.vocab);
    c.pad_id = token(file, "padding_token_id", c.vocab);
    for (const char* key : {"eos_token_id", "eot_token_id"})
        if (const int64_t id = token(file, key, c.vocab);
            id >= 0 && (c.eos_ids.empty() || c.eos_ids[0] != id))
            c.eos_ids.push_back(id);
    validate(c, file.name());
    return c;
}

}  // namespace polyad
