// SPDX-License-Identifier: Apache-2.0
// The decode loop: rows of different length, skillset, task and sampling in one forward per token, over a
// cache.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "routing/skillset.h"
#include "serving/answer_text.h"
#include "serving/mixed_adaptation.h"
#include "serving/sampling.h"

namespace polyad {

struct GenerationInput {
    std::shared_ptr<const Skillset> skillset;  ///< null: the backbone alone
    int task = -1;                             ///< in the skillset's table; -1 = none
    std::vector<float> weights;                ///< explicit skill weights instead of the router's
    std::vector<int32_t> prompt;               ///< token ids
    /// Scores against the skillset's clusters, when the host brings its own; empty = made of `text`, or of
    /// what the prompt's ids say.
    std::vector<float> intuition;
    std::optional<std::string> text;  ///< instruction and input, as Intuition::text_of joins them
    SamplingOptions sampling;
};

enum class FinishReason { none, end_token, stop_string, max_tokens, cancelled, failed };
/// "end_token", "stop_string", ...
const char* finish_reason_name(FinishReason reason);

/// A row on its way through the decoder.
struct GenerationRow {
    GenerationRow(const Backbone& backbone, GenerationInput what);

    GenerationInput input;
    std::vector<int32_t> tokens;  ///< the answer so far, end token excluded
    std::string piece;            ///< text that became certain in the last step
    FinishReason reason = FinishReason::none;
    std::exception_ptr error;  ///< when reason is failed

    bool finished() const { return reason != FinishReason::none; }

  private:
    friend class GenerationBatch;
    AnswerText text_;
    Generator random_;
    RouteMemory memory_;
    int slot_ = -1;
    bool prefilled_ = false;
};

/// The rows that share one forward. One caller at a time.
class GenerationBatch {
  public:
    /// `slots` rows of up to `capacity` tokens each, prompt and answer.
    GenerationBatch(std::shared_ptr<const Backbone> backbone, int slots, int capacity);

    int capacity() const { return cache_->capacity(); }
    int free_slots() const { return static_cast<int>(free_.size()); }
    bool empty() const { return rows_.empty(); }
    const std::vector<std::shared_ptr<GenerationRow>>& rows() const { return rows_; }

    /// Code::context_overflow when prompt and max_tokens do not fit, Code::invalid_argument for ids outside
    /// the vocabulary, bad sampling options, an empty prompt or no free slot.
    void add(std::shared_ptr<GenerationRow> row);
    /// Gives a row's slot back at once.
    void remove(const GenerationRow& row);
    /// One token for every row: new rows read their prompt, running rows go on, in one forward. Rows that
    /// finish, or fail, leave the batch; a row's error never touches another row. Returns the rows that were
    /// in the step.
    std::vector<std::shared_ptr<GenerationRow>> step();

  private:
    /// Routing of a group's last forward; reused while the same rows decode one token each.
    struct Routing {
        std::unique_ptr<MixedAdaptation> adaptation;
        std::vector<const GenerationRow*> rows;
    };

    void step_group(const Skillset* owner, const std::vector<GenerationRow*>& rows);
    void forward(Routing& routing, const std::vector<GenerationRow*>& rows);
    void advance(GenerationRow& row, std::span<const float> logits);

    std::shared_ptr<const Backbone> backbone_;
    std::unique_ptr<KvCache> cache_;
    std::vector<std::shared_ptr<GenerationRow>> rows_;  ///< rows of one skillset are neighbours
    std::vector<int> free_;
    /// Rows that run together: by the exclusive skillset they alone use, or null for all others.
    std::map<const Skillset*, Routing> routings_;
};

/// Tokens per row a GenerationBatch needs for this input: all of its prompt and answer that lie in the cache,
/// or the longer of the two where an encoder reads the prompt.
size_t tokens_needed(const Backbone& backbone, const GenerationInput& input);
/// Most tokens an answer to this input's prompt can have in the backbone's context; 0 or less = none.
int64_t room_for_answer(const Backbone& backbone, const GenerationInput& input);

/// Checks ids, length and options of one input; what GenerationBatch::add refuses, refused earlier.
void check_input(const Backbone& backbone, const GenerationInput& input, int capacity);

struct Generated {
    std::vector<int32_t> tokens;  ///< end token excluded
    std::string text;             ///< up to the stop string; empty without a tokenizer
    FinishReason reason = FinishReason::none;
};

/// Answers all inputs, at most `max_batch` at a time; results in the inputs' order. Throws the first row's
/// error. `cancelled` (optional) is looked at between tokens: Code::cancelled.
std::vector<Generated> generate(const std::shared_ptr<const Backbone>& backbone,
                                const std::vector<GenerationInput>& inputs, int max_batch = 16,
                                const std::atomic<bool>* cancelled = nullptr);

}  // namespace polyad
