// SPDX-License-Identifier: Apache-2.0
// Scores of vectors against clusters, and how the clusters are found.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "base/random.h"

namespace polyad {

/// Scores [rows, clusters] and the best cluster of each row, lowest index on a tie.
struct ClusterScores {
    at::Tensor scores;
    std::vector<int64_t> cluster;
};
/// embeddings [rows, d], centroids [clusters, d]; a side whose option is on is scaled to unit rows first.
ClusterScores cluster_scores(const at::Tensor& embeddings, const at::Tensor& centroids,
                             bool normalize_embeddings, bool normalize_centroids);

/// Lloyd's iteration from a k-means++ start (Arthur and Vassilvitskii 2007) on points [n, d], until no point
/// moves. Spherical: on unit vectors, by cosine, centroids of unit length (Dhillon and Modha 2001). A cluster
/// that loses all its points takes the one that lies worst. Same points, same generator: same clusters.
/// Points and result lie in host memory; on a CUDA `device` its kernel says which centre is nearest.
/// Code::invalid_config when there are fewer points than clusters.
at::Tensor find_centroids(const at::Tensor& points, int clusters, bool spherical, Generator& random,
                          at::Device device = at::kCPU);

/// RouteInput::intuition of rows whose scores may be null or empty (none: zeros); undefined when all are.
at::Tensor intuition_rows(const std::vector<const std::vector<float>*>& rows);

}  // namespace polyad
