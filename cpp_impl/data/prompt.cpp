// SPDX-License-Identifier: Apache-2.0
#include "data/prompt.h"

#include <algorithm>
#include <functional>

#include "base/error.h"

namespace polyad {
namespace {

constexpr std::string_view instruction_mark = "{instruction}", input_mark = "{input}";

/// The suffix of `text` that starts at the first whole character at or after byte `at`.
std::string_view suffix_from(std::string_view text, size_t at) {
    while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) ++at;
    return text.substr(std::min(at, text.size()));
}

/// Cuts `text` to its longest suffix that `fits`; false when even "" does not. Grows from the end and then
/// halves, so that a huge text is never encoded again in full. Token counts grow with the text but for a
/// token or two: the result always fits and is the longest one or next to it.
bool longest_suffix(std::string_view& text, const std::function<bool(std::string_view)>& fits) {
    if (!fits({})) return false;
    size_t good = 0, bad = text.size();  // kept bytes that fit, and that do not
    for (size_t keep = 1024; keep < bad; keep *= 2)
        (fits(suffix_from(text, text.size() - keep)) ? good : bad) = keep;
    while (bad - good > 1) {
        const size_t keep = good + (bad - good) / 2;
        (fits(suffix_from(text, text.size() - keep)) ? good : bad) = keep;
    }
    text = suffix_from(text, text.size() - good);
    return true;
}

std::string_view reference_of(const Example& example) {
    return example.outputs.empty() ? std::string_view() : std::string_view(example.outputs.front());
}

}  // namespace

PromptFormat PromptFormat::from_json(const Json& object) {
    ConfigReader read(object, "prompt");
    PromptFormat out;
    out.style = read.string("style", out.style);
    out.system = read.string("system", "");
    out.positive_examples = static_cast<int>(read.integer("positive_examples", 0, 0, 64));
    out.max_tokens = static_cast<int>(read.integer("max_tokens", out.max_tokens, 2, 1 << 20));
    const int fallback = std::min(out.max_answer_tokens, std::max(1, out.max_tokens / 2));
    out.max_answer_tokens = static_cast<int>(read.integer("max_answer_tokens", fallback, 1, 1 << 20));
    if (out.max_answer_tokens >= out.max_tokens)
        read.refuse(
            "max_answer_tokens",
            text(out.max_answer_tokens, " leaves no room for a prompt in max_tokens = ", out.max_tokens));
    read.finish();
    if (out.style != "auto" && out.style != "chat" && out.style != "plain" &&
        out.style.find(input_mark) == std::string::npos)
        read.refuse(
            "style",
            text("'", out.style,
                 "' is not known, allowed: auto, chat, plain, or a text with {input} and {instruction}"));
    return out;
}

Json PromptFormat::to_json() const {
    return {{"style", style},
            {"system", system},
            {"positive_examples", positive_examples},
            {"max_tokens", max_tokens},
            {"max_answer_tokens", max_answer_tokens}};
}

PromptEncoder::PromptEncoder(std::shared_ptr<const Tokenizer> tokenizer, PromptFormat format)
    : tokenizer_(std::move(tokenizer)), format_(std::move(format)) {
    if (format_.max_answer_tokens < 1 || format_.max_answer_tokens >= format_.max_tokens)
        fail(Code::invalid_config, "prompt.max_answer_tokens: needs 1 to ", format_.max_tokens - 1, ", got ",
             format_.max_answer_tokens);
    const bool has_template = tokenizer_ && tokenizer_->has_chat_template();
    if (format_.style == "auto")
        style_ = has_template ? Style::chat : Style::plain;
    else if (format_.style == "chat")
        style_ = Style::chat;
    else
        style_ = format_.style == "plain" ? Style::plain : Style::custom;
    if (style_ == Style::chat && tokenizer_ && !has_template)
        fail(Code::unsupported,
             "prompt.style: this model has no chat template, use \"plain\" or a text with {input}");
}

const Tokenizer& PromptEncoder::tokenizer() const {
    if (!tokenizer_)
        fail(Code::unsupported, "this backbone came without a tokenizer: it takes token ids, not text");
    return *tokenizer_;
}

PromptEncoder::Parts PromptEncoder::parts_of(const Task& task, std::string_view input) const {
    const size_t demonstrations =
        std::min(static_cast<size_t>(format_.positive_examples), task.positive_examples.size());
    return {task.instruction, input, 0, demonstrations};
}

std::string PromptEncoder::render(const Task& task, const Parts& parts) const {
    std::string shown;  // demonstrations
    for (size_t i = parts.first_demonstration; i < parts.end_demonstration; ++i) {
        const Example& example = task.positive_examples[i];
        shown += text("Input: ", example.input, "\nOutput:\n", reference_of(example), "\n\n");
    }
    if (style_ == Style::custom) {
        std::string out;
        std::string_view rest = format_.style;
        while (!rest.empty()) {  // one pass, so that marks inside the texts stay as they are
            if (rest.starts_with(instruction_mark)) {
                out += parts.instruction;
                rest.remove_prefix(instruction_mark.size());
            } else if (rest.starts_with(input_mark)) {
                out += shown;
                out += parts.input;
                rest.remove_prefix(input_mark.size());
            } else {
                out += rest.front();
                rest.remove_prefix(1);
            }
        }
        return out;
    }
    std::string out(parts.instruction);
    if (!out.empty()) out += "\n\n";
    if (style_ == Style::plain || !shown.empty()) {
        out += shown;
        if (!parts.input.empty()) out += text("Input: ", parts.input, "\n");
        out += "Output:";
        if (style_ == Style::plain) return out + "\n";
    } else if (parts.input.empty()) {
        out.resize(out.size() - std::min<size_t>(2, out.size()));
    } else {
        out += parts.input;
    }
    std::vector<ChatMessage> messages;
    if (!format_.system.empty()) messages.push_back({"system", format_.system});
    messages.push_back({"user", std::move(out)});
    return tokenizer().apply_chat_template(messages, true);
}

std::vector<int32_t> PromptEncoder::encode_prompt(const Task& task, const Parts& parts) const {
    // A chat template writes its special tokens itself.
    std::vector<int32_t> ids = tokenizer().encode(render(task, parts), style_ != Style::chat);
    const int32_t bos = tokenizer().bos_id();
    if (style_ == Style::custom && bos >= 0 && ids.size() >= 2 && ids[0] == bos && ids[1] == bos)
        ids.erase(ids.begin());  // the text wrote its own
    return ids;
}

std::string PromptEncoder::prompt_text(const Task& task, std::string_view input) const {
    return render(task, parts_of(task, input));
}

std::vector<int32_t> PromptEncoder::prompt(const Task& task, std::string_view input, int* truncated) const {
    const auto budget = static_cast<size_t>(format_.max_tokens - format_.max_answer_tokens);
    Parts parts = parts_of(task, input);
    std::vector<int32_t> ids = encode_prompt(task, parts);
    const size_t whole = ids.size();
    if (truncated) *truncated = 0;
    if (whole == 0) fail(Code::bad_data, "task '", task.name, "': the prompt has no tokens");
    if (whole <= budget) return ids;

    const auto fits = [&](std::string_view Parts::*part, std::string_view value) {
        Parts cut = parts;
        cut.*part = value;
        return encode_prompt(task, cut).size() <= budget;
    };
    while (ids.size() > budget && parts.first_demonstration < parts.end_demonstration) {
        ++parts.first_demonstration;
        ids = encode_prompt(task, parts);
    }
    if (ids.size() > budget) {
        using View = std::string_view;
        const auto fits_input = [&](View value) { return fits(&Parts::input, value); };
        const auto fits_instruction = [&](View value) { return fits(&Parts::instruction, value); };
        if (!longest_suffix(parts.input, fits_input)) {
            parts.input = {};
            if (!longest_suffix(parts.instruction, fits_instruction))
                fail(Code::context_overflow, "the prompt template alone is longer than the ", budget,
                     " tokens that max_tokens - max_answer_tokens leaves");
        }
        ids = encode_prompt(task, parts);
    }
    if (ids.empty()) fail(Code::context_overflow, "nothing of the prompt fits into ", budget, " tokens");
    if (truncated) *truncated = static_cast<int>(whole - ids.size());
    return ids;
}

std::vector<int32_t> PromptEncoder::answer(std::string_view source) const {
    std::vector<int32_t> ids = tokenizer().encode(source, false);
    if (tokenizer().eos_id() >= 0) ids.push_back(tokenizer().eos_id());
    if (ids.size() > static_cast<size_t>(format_.max_answer_tokens))
        fail(Code::context_overflow, "an answer has ", ids.size(),
             " tokens with its end token, more than max_answer_tokens = ", format_.max_answer_tokens);
    if (ids.empty()) fail(Code::bad_data, "an answer has no tokens");
    return ids;
}

EncodedExample PromptEncoder::encode(const Task& task, std::string_view input,
                                     std::string_view answer_text) const {
    EncodedExample out;
    out.answer = answer(answer_text);
    out.prompt = prompt(task, input, &out.truncated);
    return out;
}

Batch pack(const std::vector<const EncodedExample*>& rows, int32_t decoder_start) {
    const bool encodes = decoder_start >= 0;
    Batch batch;
    batch.row_begin.push_back(0);
    if (encodes) batch.source_begin.push_back(0);
    for (const EncodedExample* row : rows) {
        POLYAD_CHECK(row && !row->prompt.empty() && !row->answer.empty());
        if (encodes) {
            batch.source.insert(batch.source.end(), row->prompt.begin(), row->prompt.end());
            batch.source_begin.push_back(static_cast<int32_t>(batch.source.size()));
            batch.tokens.push_back(decoder_start);
        } else {
            batch.tokens.insert(batch.tokens.end(), row->prompt.begin(), row->prompt.end());
            batch.targets.insert(batch.targets.end(), row->prompt.size() - 1, -1);
        }
        batch.tokens.insert(batch.tokens.end(), row->answer.begin(), row->answer.end() - 1);
        batch.targets.insert(batch.targets.end(), row->answer.begin(), row->answer.end());
        batch.row_begin.push_back(static_cast<int32_t>(batch.tokens.size()));
        batch.prompt_length.push_back(static_cast<int32_t>(row->prompt.size()));
    }
    return batch;
}

}  // namespace polyad
