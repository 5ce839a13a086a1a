// SPDX-License-Identifier: Apache-2.0
#include "serving/merged_task.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>

#include "backbone/compute_thread.h"
#include "backbone/device.h"
#include "base/error.h"

namespace polyad {
namespace {

double median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                     values.end());
    return values[values.size() / 2];
}

/// What merged steps have to be faster by: less is noise.
constexpr double gain = 0.97;

}  // namespace

MergedTask::MergedTask(std::shared_ptr<const ServedSkillset> served, int task)
    : served_(std::move(served)), task_(task) {
    const at::NoGradGuard no_grad;
    const Backbone& backbone = *served_->skillset().backbone();
    const auto dtype = backbone.compute_dtype();
    for (const Site& site : backbone.sites()) {
        const kernels::RowFactors& pair = lora()->at(site);
        if (!pair.a) continue;
        const auto view = [&](const void* data, int64_t width) {
            return at::for_blob(const_cast<void*>(data), {pair.rank, width})
                .options(at::TensorOptions().dtype(dtype).device(backbone.device()))
                .target_device(backbone.device())
                .make_tensor()
                .to(at::kFloat);
        };
        const std::string path = site.path + ".weight";
        weights_[path] = backbone.frozen(path)
                             .addmm(view(pair.b, site.d_out).t(), view(pair.a, site.d_in), 1.0,
                                    static_cast<double>(pair.scale))
                             .to(dtype);
    }
}

at::Tensor MergedTask::weight(const std::string& path) {
    const auto found = weights_.find(path);
    return found == weights_.end() ? at::Tensor() : found->second;
}

int64_t MergedTask::bytes(const ServedSkillset& served, int task) {
    const Backbone& backbone = *served.skillset().backbone();
    int64_t elements = 0;
    for (const Site& site : backbone.sites())
        if (served.lora(task)->at(site).a) elements += site.d_in * site.d_out;
    return elements * static_cast<int64_t>(at::elementSize(backbone.compute_dtype()));
}

HotTask::~HotTask() {
    if (making_.joinable()) making_.join();
}

void HotTask::begin(const std::shared_ptr<const ServedSkillset>& served, int task) {
    drop();
    of_ready_ = key_;
    bytes_ = MergedTask::bytes(*served, task);
    made_ = false;
    making_ =
        std::thread([this, served, task, stream = current_stream(served->skillset().backbone()->device())] {
            work_in_background();  // steps go on beside it
            try {
                const DeviceScope scope(stream);
                product_ = std::make_shared<MergedTask>(served, task);
                wait_for(stream.device());  // steps may run on another stream
            } catch (...) {                 // no memory: then it is not merged
            }
            made_ = true;
        });
}

const std::shared_ptr<MergedTask>& HotTask::merged() {
    if (made_ && making_.joinable()) {
        making_.join();
        ready_ = std::exchange(product_, nullptr);
        if (!ready_) bytes_ = 0;
    }
    return ready_;
}

void HotTask::drop() {
    if (making_.joinable()) making_.join();
    product_.reset();
    ready_.reset();
    of_ready_.reset();
    merged_times_.clear();
    bytes_ = 0;
}

void HotTask::stepped(const std::shared_ptr<const ServedSkillset>& served, int task, int rows, double seconds,
                      bool decoding, bool merged, int64_t room) {
    const std::optional<Key> key = served ? std::optional<Key>({served->id(), task}) : std::nullopt;
    if (key != key_ || !key) {
        key_ = key;
        streak_ = 0;
        plain_.clear();
    }
    other_ = of_ready_ && key == of_ready_ ? 0 : other_ + 1;
    // Traffic has changed: the copy, or the one in the making, is of no use.
    if (of_ready_ && other_ >= patience && (ready_ || made_)) drop();
    if (!key || !decoding) return;
    ++streak_;
    if (rows != rows_) {
        rows_ = rows;
        plain_.clear();
        merged_times_.clear();
    }
    std::vector<double>& times = merged ? merged_times_ : plain_;
    times.push_back(seconds);
    if (times.size() > trial) times.erase(times.begin());
    if (merged && merged_times_.size() == trial && plain_.size() == trial &&
        median(merged_times_) > gain * median(plain_)) {
        slower_.insert(*key);
        drop();
        return;
    }
    if (streak_ >= patience && plain_.size() == trial && !of_ready_ && !slower_.count(*key) &&
        MergedTask::bytes(*served, task) <= room)
        begin(served, task);
}

}  // namespace polyad
