// SPDX-License-Identifier: Apache-2.0
#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <map>

#include "backbone/device.h"
#include "base/error.h"
#include "routing/dropout.h"
#include "routing/pemt.h"
#include "routing/prompt_pool.h"
#include "routing/row_groups.h"
#include "routing/task_sparsity.h"

namespace polyad {
namespace {

class PemtAdaptation final : public Adaptation {
  public:
    PemtAdaptation(const Pemt& method, PromptedRows rows, RouteInput input)
        : method_(method), rows_(std::move(rows)), input_(std::move(input)), gates_(method.places().size()) {
        for (size_t b = 0; b < rows_.task.size(); ++b) {
            if (!given(b).empty()) continue;
            if (rows_.prefix[b] > 0)
                fresh_.push_back(b);
            else
                goes_on_ = true;
        }
        sparsity_wanted_ = input_.mode == Mode::train && method_.options().ts_weight > 0.0;
        if (input_.mode == Mode::train && method_.options().dynamic &&
            method_.options().prompt_dropout > 0.0 && !input_.recorded)
            seed_ = noise_seed(input_, "prompt_dropout");
    }

    std::vector<at::Tensor> prefix() override;
    void encoded(const at::Tensor& states) override { encoder_query_ = query(states); }
    std::vector<LowRank> at(const Site& site, const at::Tensor& x) override;
    at::Tensor feed_forward(int layer, const at::Tensor& u, const at::Tensor& y) override;
    at::Tensor weight(const std::string& path) override;

    at::Tensor mean_sparsity() const {
        return sparsity_.empty() ? at::Tensor() : at::stack(sparsity_).mean();
    }

  private:
    /// Weights a row brings itself.
    const std::vector<float>& given(size_t row) const {
        static const std::vector<float> none;
        return input_.weights.empty() ? none : input_.weights[row];
    }
    RouteMemory* memory(size_t row) const {
        return row < input_.memory.size() ? input_.memory[row] : nullptr;
    }

    at::Tensor correlated(int task) const;
    /// [fresh rows, q]: mean of `states` over the positions the gate reads.
    at::Tensor query(const at::Tensor& states) const;
    /// softmax(W_g c) of the fresh rows, [fresh rows, m].
    at::Tensor route(const Pemt::Place& place, const at::Tensor& query) const;
    /// [rows, m].
    at::Tensor gates(const Pemt::Place& place, const at::Tensor& x);
    void add_sparsity(const Pemt::Place& place, const at::Tensor& gates, const at::Tensor& f,
                      const std::vector<at::Tensor>& experts);

    const Pemt& method_;
    const PromptedRows rows_;
    const RouteInput input_;
    std::vector<size_t> fresh_;  ///< rows whose gates are read from their prompt in this forward
    bool goes_on_ = false;       ///< some rows' gates lie in their memory
    bool sparsity_wanted_ = false;
    std::optional<uint64_t> seed_;
    at::Tensor encoder_query_;
    std::vector<at::Tensor> gates_;  ///< per place, of the last at()
    at::Tensor projected_;           ///< of the last at(), where the sparsity loss reads it
    std::vector<at::Tensor> sparsity_;
    at::Tensor tasks_[2];  ///< of each line of a norm's gains, per stream
};

at::Tensor PemtAdaptation::correlated(int task) const {
    const at::Tensor& own = method_.prompt(task);
    if (!method_.options().dynamic) return own;
    const std::string name = text("prompt.", task);
    const double dropout = method_.options().prompt_dropout;
    std::vector<at::Tensor> sources, keep;
    for (size_t i = 0; i < static_cast<size_t>(method_.sources().count()); ++i) {
        sources.push_back(method_.source_prompt(i));
        at::Tensor mask;
        if (input_.mode == Mode::train && dropout > 0.0) {
            const std::string drawn = text("dropout_mask.", i);
            if (seed_)
                mask = dropout_mask(named_generator(*seed_, name + drawn).state(), own.size(0),
                                    sources.back().size(0), dropout, own.device());
            else if (mask = recorded_noise(input_, name, drawn.c_str()); mask.defined())
                mask = mask.to(own.device(), at::kFloat) / (1.0 - dropout);
        }
        keep.push_back(std::move(mask));
    }
    return correlated_prompt(own, sources, keep);
}

std::vector<at::Tensor> PemtAdaptation::prefix() {
    if (std::all_of(rows_.prefix.begin(), rows_.prefix.end(), [](int64_t n) { return n == 0; })) return {};
    std::map<int, at::Tensor> of_task;
    std::vector<at::Tensor> out;
    for (size_t b = 0; b < rows_.task.size(); ++b) {
        at::Tensor& prompt = of_task[rows_.task[b]];
        if (rows_.prefix[b] > 0 && !prompt.defined()) prompt = correlated(rows_.task[b]);
        out.push_back(rows_.prefix[b] > 0 ? prompt : at::Tensor());
    }
    return out;
}

at::Tensor PemtAdaptation::query(const at::Tensor& states) const {
    const RowBegin& begin = rows_.begin[static_cast<int>(rows_.prompt_stream)];
    POLYAD_CHECK(!begin.empty() && states.size(0) == begin.back());
    if (fresh_.empty()) return {};
    std::vector<TokenSpan> spans;
    for (const size_t b : fresh_)
        spans.push_back({begin[b], rows_.prefix[b] + (method_.options().reads_row ? rows_.prompt[b] : 0)});
    return pool_spans(states, spans, false, Pool::mean);
}

at::Tensor PemtAdaptation::route(const Pemt::Place& place, const at::Tensor& query) const {
    std::vector<int64_t> tasks;
    for (const size_t b : fresh_) tasks.push_back(rows_.task[b]);
    const at::Tensor& table = method_.value(place.gate);
    if (rows_.one_task()) return at::softmax(at::mm(query, table.select(0, tasks.front()).t()), -1);
    const at::Tensor each = table.index_select(0, method_.list(tasks));
    return at::softmax(at::bmm(each, query.unsqueeze(2)).squeeze(2), -1);
}

at::Tensor PemtAdaptation::gates(const Pemt::Place& place, const at::Tensor& x) {
    const std::string key = place.site.path + ".gate";
    at::Tensor routed;
    if (!fresh_.empty()) {
        if (place.from_encoder && !encoder_query_.defined())
            fail(Code::invalid_argument, "'", place.site.path, "' needs the encoder's states, none came");
        routed = route(place, place.from_encoder ? encoder_query_ : query(x));
        for (size_t i = 0; i < fresh_.size(); ++i)
            if (RouteMemory* kept = memory(fresh_[i]))
                kept->values[key] = routed.narrow(0, static_cast<int64_t>(i), 1).detach().clone();
        if (fresh_.size() == rows_.task.size()) return routed;
    }
    std::vector<at::Tensor> lines(rows_.task.size());
    for (size_t i = 0; i < fresh_.size(); ++i)
        lines[fresh_[i]] = routed.narrow(0, static_cast<int64_t>(i), 1);
    for (size_t b = 0; b < lines.size(); ++b) {
        if (lines[b].defined()) continue;
        if (!given(b).empty()) {
            lines[b] = method_.list(given(b)).unsqueeze(0);
            continue;
        }
        const RouteMemory* kept = memory(b);
        const auto found =
            kept ? kept->values.find(key) : std::map<std::string, at::Tensor>::const_iterator();
        if (!kept || found == kept->values.end())
            fail(Code::invalid_argument, "row ", b,
                 " goes on after its prompt, but nothing was kept of its gates");
        lines[b] = found->second;
    }
    return at::cat(lines, 0);
}

std::vector<LowRank> PemtAdaptation::at(const Site& site, const at::Tensor& x) {
    const int position = method_.position(site);
    if (position < 0) return {};
    const Pemt::Place& place = method_.places()[static_cast<size_t>(position)];
    at::Tensor& gate = gates_[static_cast<size_t>(position)];
    if (!fresh_.empty() || !gate.defined()) gate = gates(place, x);  // while rows only go on, it stays
    if (input_.trace) (*input_.trace)[site.path]["weights"] = gate;
    if (method_.sources().expert != "lora") return {};
    LowRank update;
    const StackedExperts experts = method_.stacked(static_cast<size_t>(position), x.scalar_type());
    if (sparsity_wanted_)  // which reads it, too
        update.input = projected_ = project(x, experts);
    else
        update.a = experts.a;
    update.b = experts.b;
    update.gate_kind = Gate::diagonal;
    update.gate = gate;
    update.scale = experts.scale;
    return {std::move(update)};
}

at::Tensor PemtAdaptation::feed_forward(int layer, const at::Tensor& u, const at::Tensor& y) {
    const int at = method_.place_of(layer);
    if (at < 0) return y;
    const Pemt::Place& place = method_.places()[static_cast<size_t>(at)];
    const at::Tensor gate = gates_[static_cast<size_t>(at)];
    POLYAD_CHECK(gate.defined());
    const RowBegin& begin = rows_.begin[static_cast<int>(place.site.stream)];
    at::Tensor h = y;
    std::vector<at::Tensor> experts;
    if (method_.sources().expert == "bottleneck") {
        const at::Tensor of_token =
            gate.index_select(0, method_.list(row_of_token(begin))).to(y.scalar_type());
        const Bottleneck sources = method_.expert_bottleneck(place);
        for (int64_t i = 0; i < method_.sources().count(); ++i) {
            experts.push_back(sources.apply(u, i));
            h = h + of_token.narrow(1, i, 1) * experts.back();
        }
    }
    const at::Tensor f = h + method_.adapter(place).apply(h, begin, rows_.task);
    if (sparsity_wanted_) add_sparsity(place, gate, f, experts);
    return f;
}

void PemtAdaptation::add_sparsity(const Pemt::Place& place, const at::Tensor& gates, const at::Tensor& f,
                                  const std::vector<at::Tensor>& experts) {
    const Pemt::Options& options = method_.options();
    const at::Tensor seen = options.ts_detach_output ? f.detach() : f;
    const auto position = static_cast<size_t>(method_.place_of(place.site.layer));
    const at::Tensor cosines =
        experts.empty() ? cosine_to_low_rank(seen, projected_, method_.stacked(position, f.scalar_type()))
                        : cosine_to(seen, experts);
    projected_ = at::Tensor();
    at::Tensor mask;
    if (options.ts_mask_padding) mask = recorded_noise(input_, place.site.path, "attention_mask");
    sparsity_.push_back(task_sparsity(cosines, gates, mask.defined() ? mask.reshape({-1}) : mask));
    if (input_.trace) (*input_.trace)[place.site.path]["task_sparsity"] = sparsity_.back();
}

at::Tensor PemtAdaptation::weight(const std::string& path) {
    const Pemt::NormTable* norm = method_.norm(path);
    if (!norm || rows_.task.empty()) return {};
    const at::Tensor& table = method_.value(norm->index);
    if (rows_.one_task()) return table.select(0, rows_.task.front());
    // Decoders take a gain per row, encoder-decoders one per token.
    at::Tensor& tasks = tasks_[static_cast<int>(norm->stream)];
    if (!tasks.defined())
        tasks = rows_.prompt_stream == Stream::source ? rows_.token_tasks(norm->stream, method_.device())
                                                      : device_list(rows_.task, method_.device());
    return table.index_select(0, tasks);
}

}  // namespace

at::Tensor correlated_prompt(const at::Tensor& prompt, const std::vector<at::Tensor>& sources,
                             const std::vector<at::Tensor>& keep) {
    at::Tensor out = prompt;
    for (size_t i = 0; i < sources.size(); ++i) {
        at::Tensor attention = at::softmax(at::mm(prompt, sources[i].t()), -1);
        if (i < keep.size() && keep[i].defined()) attention = attention * keep[i];
        out = out + at::mm(attention, sources[i]);
    }
    return out;
}

std::unique_ptr<Adaptation> adapt_pemt(const Pemt& method, PromptedRows rows, RouteInput input) {
    return std::make_unique<PemtAdaptation>(method, std::move(rows), std::move(input));
}

at::Tensor mean_task_sparsity(Adaptation& adaptation) {
    return dynamic_cast<PemtAdaptation&>(adaptation).mean_sparsity();
}

}  // namespace polyad
