// SPDX-License-Identifier: Apache-2.0
// The public SmolLM2-135M-Instruct: logits, tokens, loss, tokenisation and chat text.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <cmath>

#include "backbone/device.h"
#include "report.h"

namespace polyad::parity {
namespace {

using Ids = std::vector<int32_t>;
constexpr Tolerance smollm2_logits{2e-3, 1e-5, false, 0.995};

void run_logits(const Backbone& backbone, const Json& items, const Safetensors& expected, Report& report) {
    at::NoGradGuard no_grad;
    for (size_t i = 0; i < items.size(); ++i) {
        const std::string name = text("logits.", i);
        std::vector<at::Tensor> trace;
        ForwardOptions options;
        options.trace = &trace;
        const Batch batch = ragged({items[i].at("ids").get<Ids>()});
        const at::Tensor hidden = backbone.hidden(batch, options);
        const int64_t last = batch.size() - 1;
        const at::Tensor logits = backbone.logits(hidden.narrow(0, last, 1))[0];
        const auto top = items[i].at("top_ids").get<Ids>();
        const auto values = items[i].at("top_values").get<std::vector<double>>();
        at::Tensor actual = at::empty({static_cast<int64_t>(top.size())}, logits.options()),
                   wanted = at::empty_like(actual);
        for (size_t k = 0; k < top.size(); ++k) {
            actual[static_cast<int64_t>(k)].copy_(logits[top[k]]);
            wanted[static_cast<int64_t>(k)].fill_(values[k]);
        }
        report.compare(name + ".top", actual, wanted, smollm2_logits);
        report.compare_value(name + ".logsumexp", logits.logsumexp(0).item<double>(),
                             items[i].at("logsumexp").get<double>(), 2e-3);
        if (!report.bf16()) {
            const at::Tensor order = std::get<1>(logits.topk(static_cast<int64_t>(top.size())));
            Ids found;
            for (size_t k = 0; k < top.size(); ++k)
                found.push_back(static_cast<int32_t>(order[static_cast<int64_t>(k)].item<int64_t>()));
            report.compare_tokens(name + ".top_ids", found, top);
        }
        if (const StoredTensor* all = expected.find(name + ".last"))
            report.compare(name + ".last", logits, tensor_of(*all), smollm2_logits);
        for (size_t l = 0; l < trace.size(); ++l) {
            const StoredTensor* stored =
                expected.find(name + (l == 0 ? ".hidden.embed" : text(".hidden.", l - 1)));
            if (stored)
                report.compare(stored->name, trace[l][last], tensor_of(*stored), {2e-3, 1e-4, false, 0.99});
        }
        if (const StoredTensor* final = expected.find(name + ".hidden.final"))
            report.compare(final->name, hidden[last], tensor_of(*final), {2e-3, 1e-4, false, 0.99});
    }
}

void run_loss(const Backbone& backbone, const Json& items, const Safetensors& expected, Report& report) {
    for (size_t i = 0; i < items.size(); ++i) {
        const auto prompt = items[i].at("prompt_ids").get<Ids>(),
                   answer = items[i].at("answer_ids").get<Ids>();
        Ids row = prompt;
        row.insert(row.end(), answer.begin(), answer.end());
        const Batch batch = ragged({row});
        ForwardOptions options;
        options.embeddings = backbone.embed(row).requires_grad_(true);
        const at::Tensor hidden = backbone.hidden(batch, options);
        const at::Tensor nll = backbone.token_nll(
            hidden.narrow(0, static_cast<int64_t>(prompt.size()) - 1, static_cast<int64_t>(answer.size())),
            answer);
        const at::Tensor loss = nll.mean();
        report.compare_value(text("loss.", i), loss.item<double>(), items[i].at("loss").get<double>(), 2e-4);
        run_backward(loss);
        const std::string name = text("loss.", i, ".grad.inputs_embeds");
        if (const StoredTensor* stored = expected.find(name))
            report.compare(name, options.embeddings.grad(), tensor_of(*stored), {2e-5, 1e-3, true, 0.9});
    }
}

void run_greedy(const Backbone& backbone, const Json& items, Report& report) {
    if (report.bf16()) return;  // gaps between logits are below bf16's rounding
    std::vector<Ids> prompts, wanted;
    for (const Json& item : items) {
        prompts.push_back(item.at("prompt_ids").get<Ids>());
        wanted.push_back(item.at("ids").get<Ids>());
    }
    const auto rows = greedy(backbone, prompts, static_cast<int>(wanted[0].size()), -1, 0);
    for (size_t i = 0; i < rows.size(); ++i)
        report.compare_tokens(text("greedy[", i, "]"), rows[i], wanted[i]);
}

void run_text(const Tokenizer& tokenizer, const Json& about, Report& report) {
    for (size_t i = 0; i < about.at("tokenization").size(); ++i) {
        const Json& item = about.at("tokenization")[i];
        const auto ids = item.at("ids").get<Ids>();
        report.compare_tokens(text("tokenization[", i, "]"),
                              tokenizer.encode(item.at("text").get<std::string>(), false), ids);
        const bool same = tokenizer.decode(ids, false) == item.at("decoded").get<std::string>() &&
                          tokenizer.decode(ids, true) == item.at("decoded_skip_special").get<std::string>();
        report.result(text("tokenization[", i, "].decoded"), same, text(ids.size(), " ids"));
    }
    for (size_t i = 0; i < about.at("chat").size(); ++i) {
        const Json& item = about.at("chat")[i];
        std::vector<ChatMessage> messages;
        for (const Json& m : item.at("messages"))
            messages.push_back({m.at("role").get<std::string>(), m.at("content").get<std::string>()});
        const std::string rendered =
            tokenizer.apply_chat_template(messages, item.at("add_generation_prompt").get<bool>());
        report.result(text("chat[", i, "].text"), rendered == item.at("text").get<std::string>(),
                      text(rendered.size(), " bytes"));
        report.compare_tokens(text("chat[", i, "].ids"), tokenizer.encode(rendered, false),
                              item.at("ids").get<Ids>());
    }
}

}  // namespace

void run_smollm2(const Backbone& backbone, const std::filesystem::path& folder, Report& report) {
    const auto path = folder / "smollm2_expected.json";
    const Json about = parse_json(Bytes::map_file(path).text(), path.string());
    const Safetensors expected = open_safetensors(folder / "smollm2_expected.safetensors");
    if (backbone.tokenizer())
        run_text(*backbone.tokenizer(), about, report);
    else
        report.result("tokenizer", false, "the model came without one");
    run_logits(backbone, about.at("logits"), expected, report);
    run_loss(backbone, about.at("loss"), expected, report);
    run_greedy(backbone, about.at("greedy"), report);
}

}  // namespace polyad::parity
