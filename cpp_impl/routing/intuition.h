// SPDX-License-Identifier: Apache-2.0
// Intuition (MoR1E, arXiv 2404.08985): what a prompt's text says about the experts before any layer has run.
// The training instances' sentence vectors are clustered once; the score of a prompt against centroid k is
// expert k's intuition, for all layers and tokens:
//
//     kappa_k = < unit(centroid_k), e(x) >          e: frozen sentence encoder, unit length; no softmax
//
// The paper does not say how its clusters were made; the choices here are options (docs/methods.md).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "backbone/sentence_encoder.h"
#include "base/config.h"
#include "data/dataset.h"
#include "routing/clusters.h"

namespace polyad {

struct IntuitionConfig {
    std::string encoder;      ///< where the encoder was opened; "" = the host brings it
    std::string fingerprint;  ///< of the encoder the clusters were made with
    int64_t width = 0;        ///< of its vectors
    int clusters = 0;
    bool spherical = true;
    bool normalize_centroids = true;
    int max_tokens = 256;
    int64_t max_instances = 2000;  ///< embedded for clustering; 0 = all

    /// {"encoder", "clusters", "cluster", "normalize_centroids", "max_tokens", "max_instances",
    /// "encoder_fingerprint", "width"}; `experts` is what clusters must be.
    static IntuitionConfig from_json(const Json& object, int experts);
    Json to_json() const;
};

/// Immutable but for the encoder, which is opened when the first text comes; safe for concurrent use.
class Intuition {
  public:
    /// Clusters the tasks' training texts, dealt out evenly over the tasks. `encoder` may be null: opened
    /// from config.encoder.
    static std::shared_ptr<Intuition> learn(IntuitionConfig config, const std::vector<Task>& tasks,
                                            uint64_t seed, std::shared_ptr<const Backbone> encoder);
    /// Clusters made before, [clusters, width] float32. Code::invalid_argument for NaN or infinity.
    Intuition(IntuitionConfig config, at::Tensor centroids);

    /// What of a prompt is embedded: instruction and input, never the chat template around them.
    static std::string text_of(std::string_view instruction, std::string_view input);

    ClusterScores score(const at::Tensor& embeddings) const;
    /// kappa of a prompt's text, [clusters]. Kept: the same text costs nothing the second time.
    std::vector<float> scores(const std::string& text) const;
    /// Code::backbone_mismatch for another encoder than the clusters were made with.
    void set_encoder(std::shared_ptr<const Backbone> encoder);

    /// The encoder in use, null until the first text or set_encoder.
    std::shared_ptr<const Backbone> opened() const;

    const IntuitionConfig& config() const { return config_; }
    const at::Tensor& centroids() const { return centroids_; }
    /// {"instances", "clusters": [{"size", "tasks": {name: count}}]} of learn(); null otherwise.
    const Json& summary() const { return summary_; }

  private:
    const SentenceEncoder& encoder() const;
    void check(const Backbone& encoder) const;

    IntuitionConfig config_;
    at::Tensor centroids_;
    Json summary_;
    mutable std::mutex mutex_;  ///< guards what follows
    mutable std::unique_ptr<const SentenceEncoder> encoder_;
    mutable std::unordered_map<std::string, std::vector<float>> kept_;  ///< by the text's hash
};

}  // namespace polyad
