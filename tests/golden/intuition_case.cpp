// SPDX-License-Identifier: Apache-2.0
// A case of cluster scores.
#include <ATen/ops/tensor.h>

#include "golden/case.h"
#include "routing/clusters.h"

namespace polyad::golden {

std::string run_intuition_case(const Case& c) {
    const ClusterScores got = cluster_scores(c.at("in.embeddings"), c.at("in.centroids"),
                                             c.config.at("normalize_embeddings").get<bool>(),
                                             c.config.at("normalize_centroids").get<bool>());
    if (std::string problem = difference("out.scores", got.scores, c.at("out.scores"), c); !problem.empty())
        return problem;
    return difference("out.cluster", at::tensor(got.cluster, at::kLong), c.at("out.cluster"), c);
}

}  // namespace polyad::golden
