// SPDX-License-Identifier: Apache-2.0
// The decode loop: rows of different length, skillset, task and sampling in one forward per token, over a
// cache.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "routing/skillset.h"
#include "serving/answer_text.h"
#include "serving/decode_graphs.h"
#include "serving/device_sampling.h"
#include "serving/merged_task.h"
#include "serving/mixed_adaptation.h"
#include "serving/prefix_cache.h"
#include "serving/sampling.h"

namespace polyad {

struct GenerationInput {
    std::shared_ptr<const Skillset> skillset;  ///< null: the backbone alone
    /// What an engine made of `skillset`, which is then its shared(); null: the method is asked for
    /// everything.
    std::shared_ptr<const ServedSkillset> served;
    int task = -1;                ///< in the skillset's table; -1 = none
    std::vector<float> weights;   ///< explicit skill weights instead of the router's
    std::vector<int32_t> prompt;  ///< token ids
    /// Scores against the skillset's clusters, when the host brings its own; empty = made of `text`, or of
    /// what the prompt's ids say.
    std::vector<float> intuition;
    std::optional<std::string> text;  ///< instruction and input, as Intuition::text_of joins them
    SamplingOptions sampling;
};

enum class FinishReason { none, end_token, stop_string, max_tokens, cancelled, failed, expired };
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
    /// What the row's skillset does to it, as plain pairs; null where it takes the method to know.
    const ResidentLora* lora() const;
    /// Prompt tokens whose keys and values another row had left.
    int64_t cached_tokens() const { return cached_; }

  private:
    friend class GenerationBatch;
    /// Tokens of prompt and answer that the next step reads.
    int64_t unread() const { return static_cast<int64_t>(input.prompt.size() + tokens.size()) - read_; }
    std::vector<int32_t> next_tokens() const;
    PrefixRoute route() const;

    AnswerText text_;
    Generator random_;
    RouteMemory memory_;
    int slot_ = -1;
    int64_t read_ =
        0;  ///< tokens of prompt and answer in the cache, prefix positions of a method not counted
    int64_t cached_ = 0;  ///< of them, found in the prefix cache
    bool begun_ = false;  ///< a forward has read its prompt
};

/// The rows that share one forward. One caller at a time.
class GenerationBatch {
  public:
    /// `slots` rows of up to `capacity` tokens each, prompt and answer. `share_prefixes`: keeps what prompts
    /// have in common for later rows, where the cache has pages.
    GenerationBatch(std::shared_ptr<const Backbone> backbone, int slots, int capacity,
                    bool share_prefixes = false);

    int capacity() const { return cache_->capacity(); }
    int free_slots() const { return static_cast<int>(free_.size()); }
    bool empty() const { return rows_.empty(); }
    const std::vector<std::shared_ptr<GenerationRow>>& rows() const { return rows_; }

    /// Code::context_overflow when prompt and max_tokens do not fit, Code::invalid_argument for ids outside
    /// the vocabulary, bad sampling options, an empty prompt or no free slot.
    void add(std::shared_ptr<GenerationRow> row);
    /// Gives a row's slot back at once.
    void remove(const GenerationRow& row);
    /// The same for a row that will be added again: it then reads its prompt and its answer so far once more.
    void suspend(GenerationRow& row);

    /// Cache memory for a row's next step, prefixes nobody uses given up for it; false when there is none.
    /// Always true where the cache has no pages.
    bool make_room(GenerationRow& row);
    /// True when the cache has pages, so that rows take memory as they grow.
    bool paged() const { return decoder_cache_ != nullptr; }
    /// Why make_room() found none.
    std::string no_room() const { return decoder_cache_ ? decoder_cache_->pool().refusal() : std::string(); }
    /// Most bytes of pages, and of prefixes kept for later rows. Prefixes beyond go at once, rows when they
    /// end.
    void set_limits(int64_t cache, int64_t prefixes);
    /// Pages left within the limit, those of unused prefixes included.
    int64_t spare_pages() const;
    bool within_limit() const;
    /// Bytes a row needs from its start to its end.
    int64_t bytes_needed(const GenerationInput& input) const;
    /// Bytes of pages now in use, and of those that hold prefixes.
    int64_t cache_bytes() const { return decoder_cache_ ? decoder_cache_->pool().bytes() : 0; }
    int64_t prefix_bytes() const;
    /// Rows that all have the pairs of this task run on its merged weights; null = none do.
    void set_merged(std::shared_ptr<MergedTask> merged);
    /// True when the last step did.
    bool ran_merged() const { return ran_merged_; }
    /// Steps that played a recording instead of launching every kernel.
    int64_t graph_steps() const { return graphs_ ? graphs_->played() : 0; }
    /// Forgets the prefixes of a skillset's version.
    void drop_prefixes(int64_t version) { prefixes_.drop(version); }

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

    bool shares(const GenerationRow& row) const;
    void trim_prefixes();
    void step_group(const Skillset* owner, const std::vector<GenerationRow*>& rows);
    void forward(Routing& routing, const std::vector<GenerationRow*>& rows);
    Adaptation* adapt(Routing& routing, const std::vector<GenerationRow*>& rows, const Batch& batch,
                      bool decoding);
    at::Tensor graph_step(const std::vector<GenerationRow*>& rows);
    static std::vector<SampledRow> sampled_rows(const std::vector<GenerationRow*>& rows);
    void advance(GenerationRow& row, int32_t id);

    std::shared_ptr<const Backbone> backbone_;
    std::unique_ptr<KvCache> cache_;
    DecoderCache* decoder_cache_ = nullptr;  ///< the same, when it has pages
    std::unique_ptr<DecodeGraphs> graphs_;   ///< null where nothing can be recorded
    bool share_prefixes_;
    PrefixCache prefixes_;
    std::shared_ptr<MergedTask> merged_;
    bool ran_merged_ = false;
    int64_t most_prefix_bytes_ = std::numeric_limits<int64_t>::max();
    std::vector<std::shared_ptr<GenerationRow>> rows_;  ///< rows of one adaptation are neighbours
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
