// SPDX-License-Identifier: Apache-2.0
// The fixtures' tiny model with two toy tasks: what tests of training and serving share.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "routing/skillset.h"

namespace polyad::tiny {

inline const std::filesystem::path& model() {
    static const std::filesystem::path path =
        std::string(POLYAD_SHARED_DIR) + "/fixtures/gguf/tiny_llama.gguf";
    return path;
}

#define SKIP_WITHOUT_TINY_MODEL() \
    if (!std::filesystem::exists(tiny::model())) GTEST_SKIP() << "no fixture at " << tiny::model()

inline std::shared_ptr<const Backbone> backbone() {
    static const std::shared_ptr<const Backbone> opened = [] {
        BackboneOptions options;
        options.precision = Precision::fp32;
        return Backbone::open(model(), options);
    }();
    return opened;
}

inline const char* rows() {
    return R"({"task": "up", "instruction": "Say up.", "input": "a", "output": "up", "split": "train"}
{"task": "up", "instruction": "Say up.", "input": "b", "output": "up", "split": "train"}
{"task": "up", "instruction": "Say up.", "input": "the dog", "output": "up", "split": "train"}
{"task": "up", "instruction": "Say up.", "input": "c", "output": "up", "split": "validation"}
{"task": "down", "instruction": "Say down.", "input": "a", "outputs": ["down", "below"], "split": "train"}
{"task": "down", "instruction": "Say down.", "input": "the quick fox", "output": "down", "split": "train"}
{"task": "down", "instruction": "Say down.", "input": "c", "output": "down", "split": "validation"}
)";
}

inline std::shared_ptr<const Dataset> dataset(std::string_view text = rows()) {
    return std::make_shared<const Dataset>(Dataset::from_jsonl(Bytes::copy_of(text, "rows.jsonl")));
}

inline Json method(const char* name, uint64_t seed = 3) {
    Json out = {
        {"method", name},
        {"rank", 4},
        {"seed", seed},
        {"prompt", {{"style", "{instruction} {input} ->"}, {"max_tokens", 64}, {"max_answer_tokens", 16}}}};
    if (std::string_view(name) == "cpoly") out["common_skills"] = 2;
    return out;
}

inline std::shared_ptr<Skillset> skillset(const Json& config, const Dataset& data) {
    return Skillset::create(backbone(), data.tasks(), config);
}

/// All parameters' bytes.
inline std::string weights(const Skillset& skillset) {
    std::string out;
    for (const Parameter& p : skillset.method().parameters())
        out.append(static_cast<const char*>(p.value.const_data_ptr()), static_cast<size_t>(p.value.nbytes()));
    return out;
}

/// Moves every parameter away from its start, so that skills do something: zeros would hide mistakes.
inline void shake(Skillset& skillset, uint64_t seed, double size = 0.5) {
    Generator random(seed);
    for (const Parameter& p : skillset.method().parameters()) {
        auto* data = static_cast<float*>(p.value.data_ptr());
        for (int64_t i = 0; i < p.value.numel(); ++i) data[i] += static_cast<float>(size * random.normal());
    }
    skillset.method().parameters_changed();
}

inline Error error_of(const std::function<void()>& run) {
    try {
        run();
    } catch (const Error& e) {
        return e;
    }
    return Error(Code::ok, "no error");
}

#define EXPECT_REFUSED(statement, want, part)                                                   \
    do {                                                                                        \
        const Error refused = tiny::error_of([&] { statement; });                               \
        EXPECT_EQ(refused.code(), want) << refused.what();                                      \
        EXPECT_NE(std::string(refused.what()).find(part), std::string::npos) << refused.what(); \
    } while (false)

}  // namespace polyad::tiny
