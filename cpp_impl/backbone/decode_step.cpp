// SPDX-License-Identifier: Apache-2.0
#include "backbone/decode_step.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cstring>
#include <utility>

#include "backbone/device.h"
#include "backbone/kv_cache.h"
#include "base/error.h"

namespace polyad {
namespace {

constexpr int64_t alignment = 4;  ///< int32 entries: parts begin where 16 bytes do

int64_t entries(int64_t bytes) {
    return (bytes + 15) / 16 * alignment;
}

std::shared_ptr<const PastRows> pages_of(const std::vector<int32_t>& lengths, int pages) {
    auto past = std::make_shared<PastRows>();
    past->length = lengths;
    past->page_tokens = DecoderCache::page_tokens;
    for (size_t b = 0; b < lengths.size(); ++b) past->page_begin.push_back(static_cast<int32_t>(b) * pages);
    past->page.resize(lengths.size() * static_cast<size_t>(pages));
    return past;
}

}  // namespace

DecodeStep::DecodeStep(std::shared_ptr<const AttentionPlan> plan, const std::vector<int32_t>& past_lengths,
                       at::Device device, Recorder& recorder)
    : plan_(std::move(plan)), recorder_(recorder), keys_(past_lengths.at(0) + 1) {
    const auto rows = static_cast<int64_t>(past_lengths.size());
    POLYAD_CHECK(plan_->rows() == rows && plan_->query_begin.back() == rows);
    pages_ = (keys_ + DecoderCache::page_tokens - 1) / DecoderCache::page_tokens;
    past_ = pages_of(past_lengths, pages_);
    const int64_t of_rows = entries(rows * 4), of_pages = entries(rows * pages_ * 8);
    twin_ = at::zeros({4 * of_rows + of_pages}, at::TensorOptions().dtype(at::kInt).device(device));
    host_.resize(static_cast<size_t>(twin_.numel()));
    tokens_ = twin_.narrow(0, 0, rows);
    int64_t end = of_rows;
    position_ = bind(plan_->position, end);
    key_count_ = bind(plan_->key_count, end);
    length_ = bind(past_->length, end);
    page_ = bind(past_->page, end);
    POLYAD_CHECK(end == twin_.numel());
}

template <class T>
DecodeStep::Part DecodeStep::bind(const std::vector<T>& host, int64_t& end) {
    const auto bytes = static_cast<int64_t>(host.size() * sizeof(T));
    const Part part{end, bytes / 4};
    recorder_.bind(host.data(), static_cast<size_t>(bytes),
                   static_cast<const int32_t*>(twin_.const_data_ptr()) + end);
    end += entries(bytes);
    return part;
}

DecodeStep::~DecodeStep() {
    recorder_.unbind(plan_->position.data());
    recorder_.unbind(plan_->key_count.data());
    recorder_.unbind(past_->length.data());
    recorder_.unbind(past_->page.data());
}

void DecodeStep::set(const std::vector<int32_t>& tokens, const DecoderCache& cache,
                     const std::vector<int>& slots) {
    const auto rows = static_cast<size_t>(this->rows());
    POLYAD_CHECK(tokens.size() == rows && slots.size() == rows);
    int32_t* const host = host_.data();
    std::memcpy(host, tokens.data(), rows * 4);
    for (size_t b = 0; b < rows; ++b) {
        const int32_t length = cache.length(slots[b]);
        const auto& pages = cache.pages(slots[b]);
        POLYAD_CHECK(length < keys_ && std::ssize(pages) <= pages_ &&
                     std::ssize(pages) * DecoderCache::page_tokens > length);
        host[position_.begin + static_cast<int64_t>(b)] = length;
        host[length_.begin + static_cast<int64_t>(b)] = length;
        host[key_count_.begin + static_cast<int64_t>(b)] = length + 1;
        int32_t* to = host + page_.begin + static_cast<int64_t>(b) * pages_ * 2;
        for (size_t p = 0; p < pages.size(); ++p) {
            const void* const address = pages[p]->data();
            std::memcpy(to + 2 * p, &address, sizeof address);
        }
    }
    upload(twin_, host, host_.size() * sizeof *host);
}

}  // namespace polyad
