// SPDX-License-Identifier: Apache-2.0
// Both stages of PEMT on the tiny model: two source tasks in a bundle, two target tasks over them.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <unistd.h>

#include "backbone/backbone.h"
#include "tiny_skillsets.h"

namespace polyad::tiny {

inline Json prompt_style() {
    return {{"style", "{instruction} {input} ->"}, {"max_tokens", 64}, {"max_answer_tokens", 16}};
}

inline Json source_config(const char* expert = "lora") {
    return {{"method", "pemt_source"},
            {"expert", expert},
            {"rank", 4},
            {"alpha", 3.0},
            {"max_prompt_tokens", 6},
            {"seed", 3},
            {"prompt", prompt_style()}};
}

inline const char* target_rows() {
    return R"({"task": "left", "instruction": "Say left of it.", "input": "a", "output": "left", "split": "train"}
{"task": "left", "instruction": "Say left of it.", "input": "the dog", "output": "left", "split": "train"}
{"task": "right", "instruction": "Answer right.", "input": "b", "output": "right", "split": "train"}
{"task": "right", "instruction": "Answer right.", "input": "a fox", "output": "right", "split": "train"}
)";
}

/// Bundles live in a folder of the test's own.
class Stages : public testing::Test {
  protected:
    void SetUp() override {
        SKIP_WITHOUT_TINY_MODEL();
        folder_ = std::filesystem::temp_directory_path() / ("polyad_pemt_" + std::to_string(getpid()));
        std::filesystem::create_directories(folder_);
    }
    void TearDown() override {
        if (!folder_.empty()) std::filesystem::remove_all(folder_);
    }

    std::shared_ptr<Skillset> sources(const char* expert = "lora") const {
        auto out = skillset(source_config(expert), *dataset());
        shake(*out, 11, 0.2);
        return out;
    }
    std::string saved(const Skillset& skills, const std::string& name = "sources.polyad") const {
        const std::string path = (folder_ / name).string();
        skills.save(path);
        return path;
    }
    Json target_config(const std::string& bundle) const {
        return {{"method", "pemt"},       {"sources", {bundle}}, {"adapter_dim", 5},
                {"max_prompt_tokens", 7}, {"seed", 4},           {"prompt", prompt_style()}};
    }
    /// Targets over fresh sources; shaken, so that gates, adapters and norms do something.
    std::shared_ptr<Skillset> target(const Json& more = Json::object(), const char* expert = "lora") const {
        Json config = target_config(saved(*sources(expert)));
        config.update(more);
        auto out = skillset(config, *dataset(target_rows()));
        shake(*out, 21, 0.1);
        return out;
    }

    std::filesystem::path folder_;
};

struct Row {
    std::vector<int32_t> tokens;
    int32_t prompt = 0;
    int task = 0;
    RouteMemory* memory = nullptr;
    int slot = 0;
};

struct Run {
    at::Tensor hidden;
    std::map<std::string, std::map<std::string, at::Tensor>> trace;
    std::unique_ptr<Adaptation> adaptation;
};

/// One forward of `rows`; with a cache the rows go on in their slots.
inline Run run(const Skillset& skills, const std::vector<Row>& rows, KvCache* cache = nullptr,
               Mode mode = Mode::eval, Generator* noise = nullptr) {
    Batch batch;
    RouteInput input;
    ForwardOptions options;
    batch.row_begin = {0};
    for (const Row& row : rows) {
        batch.tokens.insert(batch.tokens.end(), row.tokens.begin(), row.tokens.end());
        batch.row_begin.push_back(batch.size());
        batch.prompt_length.push_back(row.prompt);
        input.task_ids.push_back(row.task);
        input.memory.push_back(row.memory);
        if (cache) options.slots.push_back(row.slot);
    }
    input.row_begin = batch.row_begin;
    input.prompt_length = batch.prompt_length;
    input.mode = mode;
    input.noise = noise;
    Run out;
    input.trace = &out.trace;
    out.adaptation = skills.method().adapt(input);
    options.adaptation = out.adaptation.get();
    options.cache = cache;
    out.hidden = backbone()->hidden(batch, options);
    return out;
}

inline double largest(const at::Tensor& a, const at::Tensor& b) {
    return (a.detach() - b.detach()).abs().max().item<double>();
}

inline Parameter& parameter(const Skillset& skills, const std::string& name) {
    for (Parameter& p : skills.method().parameters())
        if (p.name == name) return p;
    fail(Code::not_found, "no parameter ", name);
}

inline void set_zero(const Skillset& skills, const std::string& part) {
    const at::NoGradGuard no_gradients;
    for (Parameter& p : skills.method().parameters())
        if (p.name.find(part) != std::string::npos) p.value.zero_();
    skills.method().parameters_changed();
}

}  // namespace polyad::tiny
