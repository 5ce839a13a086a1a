// SPDX-License-Identifier: Apache-2.0
#include "routing/clusters.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "backbone/cuda.h"
#include "backbone/device.h"
#include "backbone/sentence_encoder.h"
#include "base/error.h"

namespace polyad {
namespace {

constexpr int most_iterations = 200;

double squared_distance(const float* a, const float* b, int64_t width) {
    double sum = 0.0;
    for (int64_t i = 0; i < width; ++i) {
        const double d = static_cast<double>(a[i]) - b[i];
        sum += d * d;
    }
    return sum;
}

/// k-means++: each next centre is a point drawn with probability proportional to its squared distance from
/// the nearest centre so far.
at::Tensor start_centroids(const at::Tensor& points, int clusters, Generator& random) {
    const int64_t n = points.size(0), width = points.size(1);
    const float* data = points.const_data_ptr<float>();
    at::Tensor out = at::empty({clusters, width}, points.options());
    std::vector<double> nearest(static_cast<size_t>(n), std::numeric_limits<double>::infinity());
    auto chosen = static_cast<int64_t>(random.below(static_cast<uint64_t>(n)));
    for (int k = 0; k < clusters; ++k) {
        out[k].copy_(points[chosen]);
        double total = 0.0;
        for (int64_t i = 0; i < n; ++i) {
            double& distance = nearest[static_cast<size_t>(i)];
            distance = std::min(distance, squared_distance(data + i * width, data + chosen * width, width));
            total += distance;
        }
        const double target = random.uniform(0.0, 1.0) * total;
        if (total <= 0.0) {  // all points are centres: the rest repeats some
            chosen = static_cast<int64_t>(random.below(static_cast<uint64_t>(n)));
            continue;
        }
        double sum = 0.0;
        for (int64_t i = 0; i < n; ++i) {
            if (nearest[static_cast<size_t>(i)] > 0.0) chosen = i;
            sum += nearest[static_cast<size_t>(i)];
            if (sum > target) break;
        }
    }
    return out;
}

/// Index of the largest entry of each row, the lowest on a tie.
std::vector<int64_t> argmax_rows(const at::Tensor& scores) {
    const at::Tensor values = scores.contiguous();
    const int64_t columns = values.size(1);
    std::vector<int64_t> out;
    for (int64_t row = 0; row < values.size(0); ++row) {
        const float* value = values.const_data_ptr<float>() + row * columns;
        out.push_back(std::max_element(value, value + columns) - value);
    }
    return out;
}

/// Which centroid is nearest to each point: by the device's kernel where there is one.
class Nearest {
  public:
    Nearest(const at::Tensor& points, bool spherical, at::Device device)
        : points_(points), spherical_(spherical), device_(device) {
        if (cuda_ops(device)) points_ = points.to(device);
    }

    std::vector<int64_t> operator()(const at::Tensor& centroids) const {
        if (const kernels::CudaOps* more = cuda_ops(device_)) {
            const at::Tensor there = centroids.to(device_);
            const at::Tensor member =
                at::empty({points_.size(0)}, at::TensorOptions().dtype(at::kInt).device(device_));
            more->nearest(points_.const_data_ptr<float>(), there.const_data_ptr<float>(), points_.size(0),
                          there.size(0), points_.size(1), spherical_, member.mutable_data_ptr<int32_t>());
            const at::Tensor found = on_host(member);
            const int32_t* data = found.const_data_ptr<int32_t>();
            return {data, data + found.numel()};
        }
        // |p - c|^2 = |p|^2 - 2 (<p, c> - |c|^2 / 2): the nearest centroid has the largest bracket.
        at::Tensor score = at::mm(points_, centroids.t());
        if (!spherical_) score = score - centroids.square().sum(1).mul(0.5);
        return argmax_rows(score);
    }

  private:
    at::Tensor points_;
    const bool spherical_;
    const at::Device device_;
};

}  // namespace

ClusterScores cluster_scores(const at::Tensor& embeddings, const at::Tensor& centroids,
                             bool normalize_embeddings, bool normalize_centroids) {
    if (embeddings.dim() != 2 || centroids.dim() != 2 || embeddings.size(1) != centroids.size(1))
        fail(Code::invalid_argument, "embeddings ", embeddings.sizes(), " and centroids ", centroids.sizes(),
             " have no common width");
    ClusterScores out;
    out.scores = at::mm(normalize_embeddings ? unit_rows(embeddings) : embeddings,
                        (normalize_centroids ? unit_rows(centroids) : centroids).t());
    out.cluster = argmax_rows(out.scores);
    return out;
}

at::Tensor find_centroids(const at::Tensor& given, int clusters, bool spherical, Generator& random,
                          at::Device device) {
    const at::NoGradGuard no_gradients;
    const at::Tensor points = (spherical ? unit_rows(given) : given).contiguous();
    const int64_t n = points.size(0), width = points.size(1);
    if (clusters < 1 || clusters > n)
        throw Error(Code::invalid_config,
                    text("intuition.clusters: ", clusters,
                         " clusters need at least as many training "
                         "instances, there are ",
                         n),
                    "intuition.clusters");
    const float* data = points.const_data_ptr<float>();
    at::Tensor centroids = start_centroids(points, clusters, random);
    const Nearest nearest(points, spherical, device);
    std::vector<int64_t> before;
    for (int iteration = 0; iteration < most_iterations; ++iteration) {
        std::vector<int64_t> member = nearest(centroids);
        if (member == before) break;
        std::vector<int64_t> size(static_cast<size_t>(clusters), 0);
        for (const int64_t k : member) ++size[static_cast<size_t>(k)];
        for (int k = 0; k < clusters; ++k) {
            if (size[static_cast<size_t>(k)] > 0) continue;
            int64_t worst = -1;
            double farthest = -1.0;
            for (int64_t i = 0; i < n; ++i) {
                const auto own = static_cast<size_t>(member[static_cast<size_t>(i)]);
                if (size[own] < 2) continue;
                const double distance = squared_distance(
                    data + i * width, centroids.const_data_ptr<float>() + static_cast<int64_t>(own) * width,
                    width);
                if (distance > farthest) {
                    farthest = distance;
                    worst = i;
                }
            }
            POLYAD_CHECK(worst >= 0);  // fewer clusters than points: some cluster has two
            --size[static_cast<size_t>(member[static_cast<size_t>(worst)])];
            member[static_cast<size_t>(worst)] = k;
            size[static_cast<size_t>(k)] = 1;
        }
        std::vector<double> sum(static_cast<size_t>(clusters * width), 0.0);
        for (int64_t i = 0; i < n; ++i) {
            double* row = sum.data() + member[static_cast<size_t>(i)] * width;
            for (int64_t d = 0; d < width; ++d) row[d] += data[i * width + d];
        }
        float* out = centroids.mutable_data_ptr<float>();
        for (int k = 0; k < clusters; ++k) {
            const double* row = sum.data() + k * width;
            double norm = static_cast<double>(size[static_cast<size_t>(k)]);
            if (spherical) {
                norm = 0.0;
                for (int64_t d = 0; d < width; ++d) norm += row[d] * row[d];
                norm = std::sqrt(norm);
            }
            if (norm < 1e-12) continue;  // opposite unit vectors: the old centre stays
            for (int64_t d = 0; d < width; ++d) out[k * width + d] = static_cast<float>(row[d] / norm);
        }
        before = std::move(member);
    }
    return centroids;
}

at::Tensor intuition_rows(const std::vector<const std::vector<float>*>& rows) {
    size_t width = 0;
    for (const std::vector<float>* row : rows)
        if (row && !row->empty()) width = row->size();
    if (width == 0) return {};
    at::Tensor out = at::empty({static_cast<int64_t>(rows.size()), static_cast<int64_t>(width)},
                               at::TensorOptions().dtype(at::kFloat))
                         .zero_();
    for (size_t b = 0; b < rows.size(); ++b) {
        if (!rows[b] || rows[b]->empty()) continue;
        if (rows[b]->size() != width)
            fail(Code::invalid_argument, "row ", b, " gives ", rows[b]->size(),
                 " intuition scores, another row ", width);
        std::copy(rows[b]->begin(), rows[b]->end(), out.mutable_data_ptr<float>() + b * width);
    }
    return out;
}

}  // namespace polyad
