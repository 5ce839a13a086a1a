// SPDX-License-Identifier: Apache-2.0
#include "evaluation/answer_likelihood.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "backbone/device.h"
#include "data/prompt.h"
#include "routing/clusters.h"

namespace polyad {
namespace {

/// -token_nll of the hidden rows at `positions` against `targets`.
std::vector<double> log_probabilities(const Backbone& backbone, const at::Tensor& hidden,
                                      const std::vector<int64_t>& positions,
                                      const std::vector<int32_t>& targets) {
    if (targets.empty()) return {};
    const at::Tensor chosen = hidden.index_select(0, device_list(positions, hidden.device()));
    const at::Tensor nll = on_host(backbone.token_nll(chosen, targets));
    const float* value = nll.const_data_ptr<float>();
    std::vector<double> out(targets.size());
    std::transform(value, value + out.size(), out.begin(), [](float v) { return -static_cast<double>(v); });
    return out;
}

}  // namespace

bool AnswerLikelihood::shares_prompts(int task) {
    if (!skillset_ || skillset_->sites().empty()) return true;
    if (task < 0) return false;
    const auto known = shares_.find(task);
    if (known != shares_.end()) return known->second;
    return shares_[task] = skillset_->method().collapse(skillset_->sites().front(), task).has_value();
}

at::Tensor AnswerLikelihood::hidden(const Batch& batch, const std::vector<const Question*>& of_row,
                                    KvCache* cache, const std::vector<int>& slots) {
    std::unique_ptr<Adaptation> adaptation;
    if (skillset_) {
        RouteInput route;
        route.row_begin = batch.row_begin;
        route.source_begin = batch.source_begin;
        route.prompt_length = batch.prompt_length;
        std::vector<const std::vector<float>*> intuition;
        for (const Question* question : of_row) {
            route.task_ids.push_back(question->task);
            intuition.push_back(&question->intuition);
        }
        route.intuition = intuition_rows(intuition);
        adaptation = skillset_->method().adapt(route);
    }
    ForwardOptions forward;
    forward.adaptation = adaptation.get();
    forward.cache = cache;
    forward.slots = slots;
    tokens_ += batch.size() + static_cast<int64_t>(batch.source.size());
    return backbone_.hidden(batch, forward);
}

std::vector<std::vector<double>> AnswerLikelihood::score(const std::vector<Question>& questions,
                                                         const std::function<void()>& between) {
    std::vector<std::vector<double>> out(questions.size());
    std::vector<const Question*> shared, whole;
    std::vector<std::vector<double>*> shared_out, whole_out;
    for (size_t q = 0; q < questions.size(); ++q) {
        const bool shares = questions[q].answers.size() > 1 && shares_prompts(questions[q].task);
        (shares ? shared : whole).push_back(&questions[q]);
        (shares ? shared_out : whole_out).push_back(&out[q]);
        out[q].assign(questions[q].answers.size(), 0.0);
    }
    if (!whole.empty()) score_whole_rows(whole, whole_out, between);
    for (size_t begin = 0; begin < shared.size(); begin += static_cast<size_t>(batch_size_)) {
        const size_t end = std::min(shared.size(), begin + static_cast<size_t>(batch_size_));
        score_shared_prompts({shared.begin() + static_cast<std::ptrdiff_t>(begin),
                              shared.begin() + static_cast<std::ptrdiff_t>(end)},
                             {shared_out.begin() + static_cast<std::ptrdiff_t>(begin),
                              shared_out.begin() + static_cast<std::ptrdiff_t>(end)},
                             between);
    }
    return out;
}

/// One row per answer, prompt and all.
void AnswerLikelihood::score_whole_rows(const std::vector<const Question*>& questions,
                                        const std::vector<std::vector<double>*>& out,
                                        const std::function<void()>& between) {
    std::vector<EncodedExample> rows;
    std::vector<std::pair<size_t, size_t>> of_row;  // question, answer
    for (size_t q = 0; q < questions.size(); ++q)
        for (size_t k = 0; k < questions[q]->answers.size(); ++k) {
            rows.push_back({questions[q]->prompt, questions[q]->answers[k], 0});
            of_row.emplace_back(q, k);
        }
    for (size_t begin = 0; begin < rows.size(); begin += static_cast<size_t>(batch_size_)) {
        between();
        const size_t end = std::min(rows.size(), begin + static_cast<size_t>(batch_size_));
        std::vector<const EncodedExample*> chunk;
        std::vector<const Question*> asked;
        for (size_t i = begin; i < end; ++i) {
            chunk.push_back(&rows[i]);
            asked.push_back(questions[of_row[i].first]);
        }
        const Batch batch = pack(chunk, backbone_.info().decoder_start);
        const at::Tensor states = hidden(batch, asked, nullptr, {});
        std::vector<int64_t> positions;
        std::vector<int32_t> targets;
        for (int i = 0; i < batch.size(); ++i)
            if (const int32_t target = batch.targets[static_cast<size_t>(i)]; target >= 0) {
                positions.push_back(i);
                targets.push_back(target);
            }
        const std::vector<double> scores = log_probabilities(backbone_, states, positions, targets);
        size_t next = 0;
        for (size_t i = begin; i < end; ++i)
            for (size_t k = 0; k < rows[i].answer.size(); ++k)
                (*out[of_row[i].first])[of_row[i].second] += scores[next++];
    }
}

/// All prompts in one forward that fills a cache; then, answer by answer, the k-th answers of all questions
/// continue their prompts, and the cache forgets them again.
void AnswerLikelihood::score_shared_prompts(const std::vector<const Question*>& questions,
                                            const std::vector<std::vector<double>*>& out,
                                            const std::function<void()>& between) {
    between();
    const bool encodes = backbone_.info().encoder_decoder;
    size_t capacity = 0, most_answers = 0;
    Batch prompts;
    prompts.row_begin.push_back(0);
    if (encodes) prompts.source_begin.push_back(0);
    std::vector<int> slots;
    std::vector<int64_t> positions;
    std::vector<int32_t> targets;
    for (size_t q = 0; q < questions.size(); ++q) {
        const Question& question = *questions[q];
        auto& read = encodes ? prompts.source : prompts.tokens;
        read.insert(read.end(), question.prompt.begin(), question.prompt.end());
        if (encodes) {
            prompts.source_begin.push_back(static_cast<int32_t>(prompts.source.size()));
            prompts.tokens.push_back(backbone_.info().decoder_start);
        }
        const size_t own = encodes ? 1 : question.prompt.size();
        prompts.row_begin.push_back(static_cast<int32_t>(prompts.tokens.size()));
        prompts.prompt_length.push_back(static_cast<int32_t>(question.prompt.size()));
        slots.push_back(static_cast<int>(q));
        most_answers = std::max(most_answers, question.answers.size());
        for (const auto& answer :
             question.answers) {  // the prompt's last token predicts every answer's first
            capacity = std::max(capacity, own + answer.size());
            positions.push_back(static_cast<int64_t>(prompts.tokens.size()) - 1);
            targets.push_back(answer.front());
        }
    }
    const std::unique_ptr<KvCache> cache =
        backbone_.make_cache(static_cast<int>(questions.size()), static_cast<int>(capacity));
    {
        const at::Tensor states = hidden(prompts, questions, cache.get(), slots);
        const std::vector<double> first = log_probabilities(backbone_, states, positions, targets);
        size_t next = 0;
        for (auto* scores : out)
            for (double& score : *scores) score += first[next++];
    }
    std::vector<int> prompt_end;
    for (size_t q = 0; q < questions.size(); ++q) prompt_end.push_back(cache->length(static_cast<int>(q)));
    for (size_t k = 0; k < most_answers; ++k) {
        Batch batch;
        batch.row_begin.push_back(0);
        std::vector<size_t> of_row;
        std::vector<const Question*> asked;
        slots.clear(), positions.clear(), targets.clear();
        for (size_t q = 0; q < questions.size(); ++q) {
            if (k >= questions[q]->answers.size() || questions[q]->answers[k].size() < 2) continue;
            const auto& answer = questions[q]->answers[k];
            for (size_t i = 0; i + 1 < answer.size(); ++i) {
                positions.push_back(static_cast<int64_t>(batch.tokens.size()));
                batch.tokens.push_back(answer[i]);
                targets.push_back(answer[i + 1]);
            }
            batch.row_begin.push_back(static_cast<int32_t>(batch.tokens.size()));
            batch.prompt_length.push_back(0);
            of_row.push_back(q);
            asked.push_back(questions[q]);
            slots.push_back(static_cast<int>(q));
        }
        if (of_row.empty()) continue;
        between();
        const std::vector<double> rest =
            log_probabilities(backbone_, hidden(batch, asked, cache.get(), slots), positions, targets);
        size_t next = 0;
        for (const size_t q : of_row) {
            for (size_t i = 0; i + 1 < questions[q]->answers[k].size(); ++i) (*out[q])[k] += rest[next++];
            cache->truncate(static_cast<int>(q), prompt_end[q]);
        }
    }
}

}  // namespace polyad
