// SPDX-License-Identifier: Apache-2.0
// A base model as it lies on disk or in memory: its config and its tensors under Hugging Face names, wherever
// they came from. Opening checks that every tensor the config needs is there with its shape and a usable
// dtype.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf.h"
#include "io/hf_config.h"
#include "io/safetensors.h"

namespace polyad {

/// Tensors by Hugging Face name. GGUF names are translated (blk.N.attn_q.weight ->
/// model.layers.N.self_attn.q_proj.weight), and prefixes published files differ in ("model.", "bert.") are
/// unified.
class TensorStore {
  public:
    static TensorStore from_gguf(const GgufFile& file);
    static TensorStore from_safetensors(Safetensors file, Family family);

    /// Null when absent.
    const StoredTensor* find(std::string_view name) const;
    /// Code::bad_format naming the tensor, the shape found and the one wanted; a weight dtype is required.
    const StoredTensor& expect(std::string_view name, std::span<const int64_t> shape) const;
    const StoredTensor& expect(std::string_view name, std::initializer_list<int64_t> shape) const {
        return expect(name, std::span<const int64_t>(shape.begin(), shape.size()));
    }
    /// Checks everything the config needs (io/model_layout.h).
    void validate(const ModelConfig& config) const;

    /// True when q and k rows are stored with rotary pairs interleaved, (2i, 2i+1), as llama.cpp's converter
    /// leaves the llama architecture: rotate adjacent pairs, or undo it with permuted_row().
    bool permuted_qk() const { return permuted_qk_; }
    /// Row of a permuted q or k weight that holds output row `row` of the half-split form; a row of a
    /// quantised matrix is whole blocks, so rows can be moved without expanding them.
    static int64_t permuted_row(int64_t row, int64_t head_dim) {
        const int64_t head = row / head_dim, within = row % head_dim, half = head_dim / 2;
        return head * head_dim + (within < half ? 2 * within : 2 * (within - half) + 1);
    }

    const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }
    const std::string& source() const { return source_; }

  private:
    std::map<std::string, StoredTensor, std::less<>> tensors_;
    bool permuted_qk_ = false;
    std::string source_;
};

struct ModelFiles {
    std::string name;  ///< file or folder name without its path
    ModelConfig config;
    TensorStore tensors;
    Json gguf_tokenizer;           ///< GgufFile::tokenizer_metadata(); null for folders
    std::filesystem::path folder;  ///< Hugging Face folder (tokenizer.json lies there); empty for GGUF

    /// 32 hex digits over config and weights; the same for one file and for its shards. See docs/bundle.md.
    std::string fingerprint() const;
};

/// A GGUF file or a Hugging Face folder.
ModelFiles open_model_files(const std::filesystem::path& path);
/// A GGUF file in memory.
ModelFiles open_model_files(const Bytes& gguf);

}  // namespace polyad
