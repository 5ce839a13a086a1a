// SPDX-License-Identifier: Apache-2.0
// The output head: cross-entropy with its gradient in place, and the choice of the next token.
#include <cfloat>

#include "kernels/cuda/ops.h"
#include "kernels/cuda/tile.cuh"

namespace polyad::kernels::cuda {
namespace {

constexpr int loss_threads = 512, sample_threads = 1024;

/// Maximum of some logits and the sum of e^(x - maximum), grown one logit at a time.
struct Softmax {
    float top = -INFINITY, sum = 0.0f;
    __device__ __forceinline__ void take(float x) {
        if (x > top) {
            sum = sum * expf(top - x) + 1.0f;
            top = x;
        } else if (x != -INFINITY) {
            sum += expf(x - top);
        }
    }
};

__global__ void __launch_bounds__(loss_threads)
    loss(float* logits, const int32_t* targets, float eps, float* nll, bool gradient, int vocab) {
    __shared__ float shared_float[loss_threads / 32];
    __shared__ double shared_double[loss_threads / 32];
    float* x = logits + static_cast<int64_t>(blockIdx.x) * vocab;
    const int target = targets[blockIdx.x];
    if (target < 0) {
        if (threadIdx.x == 0) nll[blockIdx.x] = 0.0f;
        if (gradient)
            for (int i = threadIdx.x; i < vocab; i += loss_threads) x[i] = 0.0f;
        return;
    }
    const bool known = target < vocab;
    const float chosen = known ? x[target] : NAN;  // a target outside the vocabulary must show
    Softmax part;
    double plain = 0.0;
    for (int i = threadIdx.x; i < vocab; i += loss_threads) {
        const float v = x[i];
        part.take(v);
        plain += static_cast<double>(v);
    }
    const float top = block_max(part.top, shared_float);
    const double sum = block_sum(
        part.sum == 0.0f ? 0.0 : static_cast<double>(part.sum) * static_cast<double>(expf(part.top - top)),
        shared_double);
    if (eps != 0.0f) plain = block_sum(plain, shared_double);
    if (threadIdx.x == 0) {
        const double lse = static_cast<double>(top) + log(sum);
        double value = lse - static_cast<double>(chosen);
        if (eps != 0.0f)
            value =
                (1.0 - static_cast<double>(eps)) * value + static_cast<double>(eps) * (lse - plain / vocab);
        nll[blockIdx.x] = static_cast<float>(value);
    }
    if (!gradient) return;
    __syncthreads();  // everybody has read `chosen`
    const float scale = static_cast<float>(1.0 / sum), spread = eps / static_cast<float>(vocab);
    for (int i = threadIdx.x; i < vocab; i += loss_threads) {
        const float g = expf(x[i] - top) * scale - spread;
        x[i] = i == target ? g - (1.0f - eps) : g;
    }
}

// ---- sampling ----
// Nothing is sorted: thresholds are found bit by bit, three bits a pass over the row.

/// Numbers that are ordered as the floats are.
__device__ __forceinline__ uint32_t key_of(float x) {
    const uint32_t bits = __float_as_uint(x == 0.0f ? 0.0f : x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/// The candidates: tokens likelier than `key`, and of those exactly as likely the ones up to `last`.
struct Candidates {
    uint32_t key = 0;
    int last = 0x7fffffff;
    __device__ __forceinline__ bool has(uint32_t k, int id) const {
        return k > key || (k == key && id <= last);
    }
};

struct SampleShared {
    double sums[8][sample_threads / 32];
    double totals[8];
    float tops[sample_threads / 32];
};

/// Sums over the block of eight values at once.
__device__ __forceinline__ void sum_eight(const float* parts, double* sums, SampleShared& shared) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const double sum = warp_sum(static_cast<double>(parts[i]));
        if (lane == 0) shared.sums[i][warp] = sum;
    }
    __syncthreads();
    if (warp < 8) {
        const double sum = warp_sum(shared.sums[warp][lane]);
        if (lane == 0) shared.totals[warp] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] = shared.totals[i];
}
static_assert(sample_threads == 1024, "a warp sums what the 32 warps found");

/// The largest number T whose tokens f(i) >= T weigh at least `target` (more than it, when `strict`); f gives
/// a token's number and weight. `bits` of T matter. 0 when all together weigh less.
template <class F>
__device__ __forceinline__ uint32_t find_threshold(int vocab, int bits, double target, bool strict,
                                                   SampleShared& shared, F f) {
    uint32_t threshold = 0;
    for (int shift = (bits + 2) / 3 * 3 - 3; shift >= 0; shift -= 3) {
        float parts[8] = {};
#pragma unroll 4
        for (int i = threadIdx.x; i < vocab; i += sample_threads) {
            uint32_t number;
            const float weight = f(i, number);
            if (number < threshold) continue;
            const uint32_t step = (number - threshold) >> shift;
#pragma unroll
            for (uint32_t j = 1; j < 8; ++j)
                if (step >= j) parts[j] += weight;
        }
        double sums[8];
        sum_eight(parts, sums, shared);
        uint32_t step = 0;
        for (uint32_t j = 1; j < 8; ++j) {
            // A step past 32 bits holds nothing.
            if (static_cast<uint64_t>(threshold) + (static_cast<uint64_t>(j) << shift) > 0xffffffffu) break;
            if (strict ? sums[j] > target : sums[j] >= target) step = j;
        }
        threshold += step << shift;
    }
    return threshold;
}

__device__ __forceinline__ int bits_of(int count) {
    return 32 - __clz(count);
}

__global__ void __launch_bounds__(sample_threads)
    choose(const float* logits, const Sampling* options, const int32_t* seen, const int32_t* seen_begin,
           float* scratch, int vocab, int32_t* token) {
    __shared__ SampleShared shared;
    __shared__ int chosen;
    const Sampling option = options[blockIdx.x];
    const float* given = logits + static_cast<int64_t>(blockIdx.x) * vocab;
    extern __shared__ float fast[];  // where a row fits: it is read dozens of times
    float* x = scratch ? scratch + static_cast<int64_t>(blockIdx.x) * vocab : fast;
    float parts[8] = {};
    double sums[8];
    for (int i = threadIdx.x; i < vocab; i += sample_threads) {
        const float v = given[i];
        x[i] = v;
        if (isnan(v) || v == INFINITY) parts[0] = 1.0f;
        if (isfinite(v)) parts[1] = 1.0f;
    }
    if (threadIdx.x == 0) chosen = 0x7fffffff;
    sum_eight(parts, sums, shared);
    if (sums[0] > 0.0 || sums[1] == 0.0) {
        if (threadIdx.x == 0) token[blockIdx.x] = -1;
        return;
    }
    if (option.repetition_penalty != 1.0f) {
        // From the logit as given: a token seen twice is penalised once.
        for (int i = seen_begin[blockIdx.x] + threadIdx.x; i < seen_begin[blockIdx.x + 1];
             i += sample_threads) {
            const int id = seen[i];
            if (id < 0 || id >= vocab) continue;
            const float v = given[id];
            x[id] = v > 0.0f ? v / option.repetition_penalty : v * option.repetition_penalty;
        }
        __syncthreads();
    }
    float top = -INFINITY;
    for (int i = threadIdx.x; i < vocab; i += sample_threads) {
        if (option.temperature != 0.0f) x[i] /= option.temperature;
        top = fmaxf(top, x[i]);
    }
    top = block_max(top, shared.tops);
    if (option.temperature == 0.0f) {
        for (int i = threadIdx.x; i < vocab; i += sample_threads)
            if (x[i] == top) {
                atomicMin(&chosen, i);
                break;
            }
        __syncthreads();
        if (threadIdx.x == 0) token[blockIdx.x] = chosen;
        return;
    }

    Candidates candidates;
    // Of the tokens as likely as the threshold, the `count` lowest belong to the candidates.
    const auto cut_ties = [&](uint32_t key, double count, double ties) {
        candidates.key = key;
        candidates.last = 0x7fffffff;
        if (count >= ties) return;
        const uint32_t all = (1u << bits_of(vocab)) - 1;
        candidates.last = static_cast<int>(
            all - find_threshold(vocab, bits_of(vocab), count, false, shared, [&](int i, uint32_t& number) {
                number = all - static_cast<uint32_t>(i);
                return key_of(x[i]) == key ? 1.0f : 0.0f;
            }));
    };
    // Weight above `key`, at it (all its tokens are as likely) and the number there, of the candidates.
    const auto weigh = [&](uint32_t key) {
        for (float& part : parts) part = 0.0f;
        for (int i = threadIdx.x; i < vocab; i += sample_threads) {
            const uint32_t k = key_of(x[i]);
            if (k < key || !candidates.has(k, i)) continue;
            const float weight = expf(x[i] - top);
            if (k > key) {
                parts[0] += weight;
                parts[3] += 1.0f;
            } else {
                parts[1] += weight;
                parts[2] += 1.0f;
            }
        }
        sum_eight(parts, sums, shared);
    };
    const auto candidate_weight = [&](int i, uint32_t& number) {
        number = key_of(x[i]);
        return candidates.has(number, i) ? expf(x[i] - top) : 0.0f;
    };

    const bool few = option.top_k > 0 && option.top_k < vocab;
    if (few) {
        const uint32_t key =
            find_threshold(vocab, 32, option.top_k, false, shared, [&](int i, uint32_t& number) {
                number = key_of(x[i]);
                return 1.0f;
            });
        weigh(key);
        cut_ties(key, option.top_k - sums[3], sums[2]);
    }
    weigh(candidates.key);
    double whole = sums[0];  // of what is above the threshold; then of the ties that belong
    whole += sums[1];
    if (option.top_p < 1.0f) {
        const double wanted = static_cast<double>(option.top_p) * whole;
        const uint32_t key = find_threshold(vocab, 32, wanted, false, shared, candidate_weight);
        weigh(key);
        const double each = sums[2] > 0.0 ? sums[1] / sums[2] : 0.0, above = sums[0], ties = sums[2];
        // The product may miss the running sum by a rounding.
        double count = each > 0.0 ? ceil((wanted - above) / each * (1.0 - 1e-9)) : ties;
        count = fmin(fmax(count, 1.0), ties);
        whole = above + count * each;
        if (key > candidates.key || count < ties) cut_ties(key, count, ties);
    }
    const double draw = option.draw * whole;
    if (few || option.top_p < 1.0f) {
        // By falling likelihood, then by id.
        // Rounding may leave a rest of the draw at the end: then the last one.
        const uint32_t key =
            max(find_threshold(vocab, 32, draw, true, shared, candidate_weight), candidates.key);
        weigh(key);
        const double each = sums[2] > 0.0 ? sums[1] / sums[2] : 0.0;
        double index = each > 0.0 ? floor((draw - sums[0]) / each) : 0.0;
        index = fmin(fmax(index, 0.0), sums[2] - 1.0);
        const Candidates before = candidates;
        cut_ties(key, index + 1.0, sums[2]);
        // The last of the ties let in.
        if (threadIdx.x == 0) chosen = -1;
        __syncthreads();
        for (int i = threadIdx.x; i < vocab; i += sample_threads)
            if (key_of(x[i]) == key && i <= candidates.last && before.has(key, i)) atomicMax(&chosen, i);
    } else {
        // By id: the first at which the running sum passes the draw.
        const uint32_t all = (1u << bits_of(vocab)) - 1;
        const uint32_t number =
            find_threshold(vocab, bits_of(vocab), draw, true, shared, [&](int i, uint32_t& at) {
                at = all - static_cast<uint32_t>(i);
                return expf(x[i] - top);
            });
        if (threadIdx.x == 0) chosen = number ? static_cast<int>(all - number) : -1;
        __syncthreads();
        if (number == 0)  // rounding, as above
            for (int i = threadIdx.x; i < vocab; i += sample_threads)
                if (expf(x[i] - top) > 0.0f) atomicMax(&chosen, i);
    }
    __syncthreads();
    if (threadIdx.x == 0) token[blockIdx.x] = chosen >= 0 && chosen < vocab ? chosen : -1;
}

}  // namespace

void cross_entropy(float* logits, const int32_t* target, float eps, float* nll, int gradient, int64_t n,
                   int64_t vocab) {
    run("cross_entropy", [&](Call& call) {
        if (n <= 0) return;
        loss<<<static_cast<unsigned>(n), loss_threads, 0, call.stream()>>>(
            logits, call.stage(target, n), eps, nll, gradient != 0, static_cast<int>(vocab));
        call.launched();
    });
}

void sample(const float* logits, const Sampling* options, const int32_t* seen, Rows seen_rows, int64_t n,
            int64_t vocab, int32_t* token) {
    run("sample", [&](Call& call) {
        if (n <= 0) return;
        if (seen_rows.count != n)
            fail("sample: %d lists of seen tokens for %lld rows", seen_rows.count, static_cast<long long>(n));
        const int32_t* begin = call.stage(seen_rows.begin, n + 1);
        const int32_t* ids = seen_rows.begin[n] > 0 ? call.stage(seen, seen_rows.begin[n]) : nullptr;
        const int64_t bytes = vocab * static_cast<int64_t>(sizeof(float));
        const bool fits = bytes + static_cast<int64_t>(sizeof(SampleShared)) + 1024 <= call.shared_limit();
        if (fits) call.allow_shared(choose, static_cast<int>(bytes));
        choose<<<static_cast<unsigned>(n), sample_threads, fits ? static_cast<size_t>(bytes) : 0,
                 call.stream()>>>(logits, call.stage(options, n), ids, begin,
                                  fits ? nullptr : call.scratch<float>(n * vocab), static_cast<int>(vocab),
                                  token);
        call.launched();
    });
}

}  // namespace polyad::kernels::cuda
