// SPDX-License-Identifier: Apache-2.0
#include "serving/decode_graphs.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>

#include "backbone/device.h"
#include "backbone/device_error.h"
#include "base/error.h"
#include "base/log.h"

namespace polyad {
namespace {

constexpr int least_keys = 64;  ///< rows of fewer keys share a recording

/// Keys a recording allows for, so that a growing row needs few of them.
int key_bound(int keys, int capacity) {
    int bound = least_keys;
    while (bound < keys) bound *= 2;
    return std::min(bound, capacity);
}

const ResidentLora* pairs_of(const DecodeRow& row) {
    return row.of ? row.of->lora(row.task) : nullptr;
}

/// Every row's own pair at every site, where the recording reads them.
class RecordedPairs final : public Adaptation {
  public:
    RecordedPairs(const std::vector<int32_t>& ranks, int rows, at::Device device, Recorder& recorder)
        : rows_(static_cast<size_t>(rows)), ranks_(ranks), recorder_(recorder) {
        const size_t count = ranks.size() * rows_;
        twin_ = at::empty({static_cast<int64_t>(count * sizeof(kernels::RowFactors))},
                          at::TensorOptions().dtype(at::kByte).device(device));
        // A bound for the launch: as many ranks as were seen, at an address as aligned as pairs are.
        const void* const somewhere = twin_.const_data_ptr();
        for (const int32_t rank : ranks)
            bound_.insert(bound_.end(), rows_, {rank > 0 ? somewhere : nullptr, somewhere, rank, 0.0f});
        recorder_.bind(bound_.data(), bytes(), twin_.const_data_ptr());
    }
    ~RecordedPairs() override { recorder_.unbind(bound_.data()); }
    RecordedPairs(const RecordedPairs&) = delete;
    RecordedPairs& operator=(const RecordedPairs&) = delete;

    void set(const std::vector<Site>& sites, const std::vector<DecodeRow>& rows) {
        POLYAD_CHECK(rows.size() == rows_ && sites.size() * rows_ == bound_.size());
        std::vector<kernels::RowFactors> now(bound_.size());
        for (size_t i = 0; i < sites.size(); ++i)
            for (size_t b = 0; b < rows_; ++b)
                if (const ResidentLora* lora = pairs_of(rows[b])) {
                    now[i * rows_ + b] = lora->at(sites[i]);
                    POLYAD_CHECK(now[i * rows_ + b].rank <= ranks_[i]);
                }
        upload(twin_, now.data(), bytes());
    }

    std::vector<LowRank> at(const Site& site, const at::Tensor&) override {
        const auto index = static_cast<size_t>(site.index);
        if (ranks_[index] == 0) return {};
        std::vector<LowRank> out(1);
        out[0].of_row = bound_.data() + index * rows_;
        return out;
    }

  private:
    size_t bytes() const { return bound_.size() * sizeof(kernels::RowFactors); }

    const size_t rows_;
    const std::vector<int32_t> ranks_;
    Recorder& recorder_;
    std::vector<kernels::RowFactors> bound_;  ///< [sites][rows]
    at::Tensor twin_;
};

}  // namespace

struct DecodeGraphs::Kept {
    // What it was made for.
    int rows, keys;
    bool paired;
    std::shared_ptr<MergedTask> merged;

    int seen = 0;
    std::unique_ptr<DecodeStep> step;
    std::unique_ptr<RecordedPairs> pairs;
    std::vector<PairsOf> set;  ///< what `pairs` hold
    at::Tensor logits;
    std::unique_ptr<Recording> recording;  ///< first to go
};

DecodeGraphs::DecodeGraphs(std::shared_ptr<const Backbone> backbone, DecoderCache& cache)
    : backbone_(std::move(backbone)), cache_(cache), recorder_(make_recorder(backbone_->device())) {
    ranks_.resize(backbone_->sites().size());
}

DecodeGraphs::~DecodeGraphs() = default;

void DecodeGraphs::keep_merged(const MergedTask* merged) {
    kept_.remove_if([&](const Kept& one) { return one.merged && one.merged.get() != merged; });
}

void DecodeGraphs::failed(const char* why) {
    kept_.clear();
    if (++failed_ < most_failed) return;
    log(LogLevel::warning,
        text("decoding on ", backbone_->device().str(), " without graphs from now on: ", why));
    recorder_.reset();
}

DecodeGraphs::Kept* DecodeGraphs::find(const std::vector<DecodeRow>& rows,
                                       const std::shared_ptr<MergedTask>& merged) {
    int longest = 0;
    for (const DecodeRow& row : rows) longest = std::max(longest, cache_.length(row.slot) + 1);
    if (longest > cache_.capacity()) return nullptr;
    const int keys = key_bound(longest, cache_.capacity()), count = static_cast<int>(rows.size());
    const bool paired = !merged && std::any_of(rows.begin(), rows.end(),
                                               [](const DecodeRow& row) { return pairs_of(row) != nullptr; });
    const auto at = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& one) {
        return one.rows == count && one.keys == keys && one.paired == paired && one.merged == merged;
    });
    if (at != kept_.end()) {
        kept_.splice(kept_.begin(), kept_, at);
    } else {
        if (kept_.size() >= most_kept) kept_.pop_back();
        kept_.emplace_front(Kept{count, keys, paired, merged, 0, nullptr, nullptr, {}, {}, nullptr});
    }
    return &kept_.front();
}

/// True when a row has a pair of more ranks than recordings allow for, which they do from now on.
bool DecodeGraphs::raise_ranks(const std::vector<DecodeRow>& rows) {
    bool raised = false;
    const std::vector<Site>& sites = backbone_->sites();
    const ResidentLora* last = nullptr;
    for (const DecodeRow& row : rows) {
        const ResidentLora* lora = pairs_of(row);
        if (!lora || lora == last) continue;
        last = lora;
        for (size_t i = 0; i < sites.size(); ++i) {
            const int32_t rank = lora->at(sites[i]).rank;
            raised |= rank > ranks_[i];
            ranks_[i] = std::max(ranks_[i], rank);
        }
    }
    return raised;
}

void DecodeGraphs::set_pairs(Kept& kept, const std::vector<DecodeRow>& rows) {
    if (!kept.paired) return;
    std::vector<PairsOf> wanted;
    for (const DecodeRow& row : rows)
        wanted.push_back(pairs_of(row) ? PairsOf{row.of->id(), row.task} : PairsOf{0, -1});
    if (wanted == kept.set) return;
    if (raise_ranks(rows)) {
        // Launches of too few ranks: every recording with pairs is made anew.
        for (Kept& one : kept_)
            if (one.paired) {
                one.recording.reset();
                one.pairs.reset();
                one.set.clear();
            }
    }
    if (!kept.pairs)
        kept.pairs = std::make_unique<RecordedPairs>(ranks_, kept.rows, backbone_->device(), *recorder_);
    kept.pairs->set(backbone_->sites(), rows);
    kept.set = std::move(wanted);
}

at::Tensor DecodeGraphs::forward(const Kept& kept, const std::vector<DecodeRow>& rows) {
    const at::NoGradGuard no_gradients;
    Batch batch;
    ForwardOptions options;
    batch.row_begin.push_back(0);
    for (const DecodeRow& row : rows) {
        batch.tokens.push_back(row.token);
        batch.row_begin.push_back(batch.size());
        batch.prompt_length.push_back(0);
        options.slots.push_back(row.slot);
    }
    options.cache = &cache_;
    options.step = kept.step.get();
    options.adaptation = kept.merged ? static_cast<Adaptation*>(kept.merged.get()) : kept.pairs.get();
    return backbone_->logits(backbone_->hidden(batch, options));
}

/// The step itself, and its recording for the next one.
at::Tensor DecodeGraphs::record(Kept& kept, const std::vector<DecodeRow>& rows) {
    at::Tensor logits;
    recorder_->rehearse([&] { logits = forward(kept, rows); });
    try {
        kept.recording = recorder_->record([&] { kept.logits = forward(kept, rows); });
    } catch (const std::exception& e) {
        const std::string memory = out_of_device_memory(e);
        failed(memory.empty() ? e.what() : memory.c_str());
    }
    return logits;
}

at::Tensor DecodeGraphs::step(const std::vector<DecodeRow>& rows, const std::shared_ptr<MergedTask>& merged) {
    if (!recorder_ || rows.empty()) return {};
    Kept* const kept = find(rows, merged);
    if (!kept || ++kept->seen < first_recorded) return {};
    for (const DecodeRow& row : rows)
        if (!cache_.reserve(row.slot, 1)) return {};  // the plain step says so
    if (!kept->step) {
        kept->step = backbone_->make_decode_step(kept->rows, kept->keys, *recorder_);
        if (!kept->step) {
            kept->seen = 0;
            return {};
        }
    }
    at::Tensor logits;
    try {
        std::vector<int32_t> tokens;
        std::vector<int> slots;
        for (const DecodeRow& row : rows) {
            tokens.push_back(row.token);
            slots.push_back(row.slot);
        }
        set_pairs(*kept, rows);
        kept->step->set(tokens, cache_, slots);
        if (kept->recording) {
            kept->recording->play();
            ++played_;
            logits = kept->logits;
        } else {
            logits = record(*kept, rows);
        }
    } catch (...) {
        kept_.clear();  // what they hold may be what is missing now
        throw;
    }
    for (const DecodeRow& row : rows) cache_.grow(row.slot, 1);
    return logits;
}

}  // namespace polyad
