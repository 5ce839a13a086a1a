// SPDX-License-Identifier: Apache-2.0
// Skillsets: made, saved, loaded; what a bundle may not say.
#include "routing/skillset.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>

#include "base/error.h"
#include "io/bundle.h"
#include "routing/flat_parameters.h"

namespace polyad {
namespace {

/// Two layers of two linears; computes nothing.
class StubBackbone final : public Backbone {
  public:
    explicit StubBackbone(std::string name = "stub", std::string fingerprint = "00ff") {
        info_.name = std::move(name);
        info_.family = "llama";
        info_.fingerprint = std::move(fingerprint);
        info_.layers = 2;
        info_.width = 6;
        for (int layer = 0; layer < 2; ++layer)
            for (const char* linear : {"self_attn.q_proj", "mlp.up_proj"}) {
                Site site;
                site.index = static_cast<int>(sites_.size());
                site.layer = layer;
                site.path = "model.layers." + std::to_string(layer) + "." + linear;
                site.d_in = 6;
                site.d_out = linear[0] == 's' ? 4 : 8;
                sites_.push_back(site);
            }
    }
    const BackboneInfo& info() const override { return info_; }
    const std::vector<Site>& sites() const override { return sites_; }
    const std::vector<NormSite>& norms() const override { return norms_; }
    at::Tensor frozen(const std::string&) const override { return {}; }
    const std::shared_ptr<const Tokenizer>& tokenizer() const override { return tokenizer_; }
    at::ScalarType compute_dtype() const override { return at::kFloat; }
    at::Tensor embed(const std::vector<int32_t>&) const override { return {}; }
    at::Tensor hidden(const Batch&, const ForwardOptions&) const override { return {}; }
    at::Tensor logits(const at::Tensor&) const override { return {}; }
    at::Tensor token_nll(const at::Tensor&, const std::vector<int32_t>&, double) const override { return {}; }
    std::unique_ptr<KvCache> make_cache(int, int) const override { return nullptr; }

  private:
    BackboneInfo info_;
    std::vector<Site> sites_;
    std::vector<NormSite> norms_;
    std::shared_ptr<const Tokenizer> tokenizer_;
};

std::vector<Task> three_tasks() {
    std::vector<Task> tasks(3);
    tasks[0].name = "antonym";
    tasks[0].instruction = "Give the opposite.";
    tasks[1].name = "plural";
    tasks[1].labels = {"a", "b"};
    tasks[1].category = "words";
    tasks[1].positive_examples = {{"", "mouse", {"mice"}}, {"", "ox", {"oxen"}}};
    tasks[2].name = "tense";
    return tasks;
}

const Json config = {{"method", "cpoly"},
                     {"rank", 2},
                     {"target_modules", {"q_proj"}},
                     {"seed", 5},
                     {"prompt", {{"style", "plain"}, {"positive_examples", 1}}}};

std::shared_ptr<Skillset> make(const Json& settings = config) {
    return Skillset::create(std::make_shared<StubBackbone>(), three_tasks(), settings);
}

void expect_error(const std::function<void()>& call, const std::vector<std::string>& parts) {
    std::string got = "no error";
    try {
        call();
    } catch (const Error& e) {
        got = std::string(code_name(e.code())) + " " + e.what() + " " + e.detail();
    }
    for (const std::string& part : parts) EXPECT_NE(got.find(part), std::string::npos) << got;
}

std::shared_ptr<Skillset> load(const std::string& bytes, std::shared_ptr<const Backbone> backbone = nullptr) {
    if (!backbone) backbone = std::make_shared<StubBackbone>();
    return Skillset::load(std::move(backbone), Bytes::copy_of(bytes, "test.polyad"));
}

void expect_equal(Skillset& a, Skillset& b) {
    std::vector<Parameter>&p = a.method().parameters(), &q = b.method().parameters();
    ASSERT_EQ(p.size(), q.size());
    for (size_t i = 0; i < p.size(); ++i) {
        EXPECT_EQ(p[i].name, q[i].name);
        EXPECT_EQ(std::memcmp(p[i].value.const_data_ptr<float>(), q[i].value.const_data_ptr<float>(),
                              static_cast<size_t>(p[i].value.numel()) * 4),
                  0)
            << p[i].name;
        EXPECT_EQ(q[i].value.requires_grad(), p[i].value.requires_grad());
    }
    EXPECT_EQ(a.config(), b.config());
}

TEST(Skillset, SaysEverythingItWasMadeOf) {
    const auto skillset = make();
    EXPECT_EQ(skillset->sites().size(), 2u);
    const Json full = skillset->config();
    EXPECT_EQ(full.at("target_modules"), Json({"q_proj"}));
    EXPECT_EQ(full.at("seed"), 5);
    EXPECT_EQ(full.at("common_skills"), 3);
    EXPECT_EQ(full.at("prompt").at("style"), "plain");
    expect_equal(*skillset, *Skillset::create(std::make_shared<StubBackbone>(), three_tasks(), full));
    EXPECT_EQ(skillset->task_index("plural"), 1);
    expect_error([&] { skillset->task_index("plurals"); }, {"unknown_task", "'plural'", "among 3"});
    EXPECT_EQ(skillset->tasks()[1].positive_examples.size(), 1u);
    EXPECT_EQ(skillset->tasks()[1].to_task().positive_examples[0].outputs[0], "mice");
}

TEST(Skillset, ReturnsFromABundleBitForBit) {
    for (const std::string& method : method_names()) {
        if (method.starts_with("pemt")) continue;  // needs feed-forwards and a first stage: pemt_stages_test
        Json settings = config;
        settings.erase("rank");  // defaults differ, and so do their names
        settings["method"] = method;
        if (method == "mhr") settings["n_splits"] = 2;
        if (method == "task_moe") settings["expert_kind"] = "lora";
        const auto skillset = make(settings);
        for (Parameter& p : skillset->method().parameters())
            Generator(3).fill_normal(p.value.mutable_data_ptr<float>(), static_cast<size_t>(p.value.numel()),
                                     0.0, 1.0);
        skillset->metadata()["licence"] = "CC0";
        const std::string bytes = skillset->save_to_memory();
        const auto again = load(bytes);
        expect_equal(*skillset, *again);
        EXPECT_EQ(again->metadata().at("licence"), "CC0");
        EXPECT_EQ(again->tasks()[1].labels, (std::vector<std::string>{"a", "b"}));
        EXPECT_EQ(again->tasks()[1].category, "words");
        EXPECT_EQ(again->tasks()[0].instruction, "Give the opposite.");
        EXPECT_EQ(again->tasks()[1].positive_examples.size(), 1u);
        EXPECT_EQ(again->save_to_memory(), bytes);
    }
}

TEST(Skillset, SavesAndLoadsAFile) {
    const auto path =
        std::filesystem::temp_directory_path() / ("polyad_skillset_" + std::to_string(getpid()));
    const auto skillset = make();
    skillset->save(path);
    expect_equal(*skillset, *Skillset::load(std::make_shared<StubBackbone>(), path));
    std::filesystem::remove(path);
    expect_error([&] { Skillset::load(std::make_shared<StubBackbone>(), path); }, {"not_found"});
}

TEST(Skillset, KeepsKeysItDoesNotKnow) {
    Bundle bundle = decode_bundle(Bytes::copy_of(make()->save_to_memory(), "test"));
    bundle.extra = {{"later", {{"a", 1}}}};
    const auto skillset = load(encode_bundle(bundle));
    const Bundle again = decode_bundle(Bytes::copy_of(skillset->save_to_memory(), "test"));
    EXPECT_EQ(again.extra.at("later").at("a"), 1);
}

TEST(Skillset, RefusesAnotherBackbone) {
    const std::string bytes = make()->save_to_memory();
    expect_error([&] { load(bytes, std::make_shared<StubBackbone>("other", "1234")); },
                 {"backbone_mismatch", "'stub'", "'other'"});
    load(bytes, std::make_shared<StubBackbone>("renamed", "00ff"));  // the same model under another file name
}

TEST(Skillset, SnapshotStandsStill) {
    const auto skillset = make();
    const auto copy = skillset->snapshot();
    expect_equal(*skillset, *copy);
    std::vector<float> values(static_cast<size_t>(flat_parameter_count(*skillset)), 0.25f);
    set_flat_parameters(*skillset, values);
    EXPECT_EQ(skillset->method().parameters()[0].value.min().item<float>(), 0.25f);
    EXPECT_NE(copy->method().parameters()[0].value.min().item<float>(), 0.25f);
}

TEST(Skillset, GrowsByATask) {
    const auto skillset = make();
    Task task;
    task.name = "gender";
    EXPECT_EQ(skillset->add_task(task, "uniform", 9), 3);
    EXPECT_EQ(skillset->task_index("gender"), 3);
    expect_error([&] { skillset->add_task(task, "fresh", 9); }, {"invalid_argument", "gender"});
    task.name = "case";
    expect_error([&] { skillset->add_task(task, "lukewarm", 9); }, {"invalid_config"});
    EXPECT_EQ(skillset->tasks().size(), 4u);
    expect_equal(*skillset, *load(skillset->save_to_memory()));
}

TEST(Skillset, GrowsByATaskAfterLoading) {
    for (const std::string& method : method_names()) {
        if (method.starts_with("pemt")) continue;  // needs feed-forwards and a first stage: pemt_stages_test
        Json settings = {{"method", method}, {"seed", 5}, {"prompt", {{"style", "plain"}}}};
        if (method == "mhr") settings["n_splits"] = 2;  // of the stub's 6 and 4 features
        if (method == "task_moe") settings["expert_kind"] = "lora";
        const auto loaded = load(make(settings)->save_to_memory());
        Task task;
        task.name = "gender";
        EXPECT_EQ(loaded->add_task(task, "fresh", 9), 3) << method;
        for (const Parameter& p : loaded->method().parameters())
            for (int64_t i = 0; i < p.value.numel(); ++i)
                ASSERT_LT(std::abs(p.value.const_data_ptr<float>()[i]), 10.0f) << method << " " << p.name;
        expect_equal(*loaded, *load(loaded->save_to_memory()));
    }
}

TEST(Skillset, RefusesBadConfigurations) {
    const auto with = [](const char* key, const Json& value) {
        return [=] {
            Json settings = config;
            settings[key] = value;
            make(settings);
        };
    };
    expect_error(with("rnk", 2), {"invalid_config", "rnk"});
    expect_error(with("seed", -1), {"invalid_config", "seed"});
    expect_error(with("target_modules", "k_proj"), {"invalid_config", "q_proj, up_proj"});
    expect_error(with("prompt", {{"styl", "x"}}), {"invalid_config", "styl"});
    expect_error([] { make(Json::array()); }, {"invalid_config"});
    expect_error([] { Skillset::create(std::make_shared<StubBackbone>(), {}, config); },
                 {"invalid_argument", "task"});
    auto twice = three_tasks();
    twice[2].name = "plural";
    expect_error([&] { Skillset::create(std::make_shared<StubBackbone>(), twice, config); },
                 {"invalid_argument", "plural"});
}

/// A saved bundle with one thing changed.
std::string changed(const std::function<void(Bundle&)>& change) {
    const std::string good = make()->save_to_memory();
    Bundle bundle = decode_bundle(Bytes::copy_of(good, "test"));
    change(bundle);
    return encode_bundle(bundle);
}

TEST(Skillset, RefusesDamagedBundles) {
    const auto refuses = [](const std::function<void(Bundle&)>& change,
                            const std::vector<std::string>& parts) {
        const std::string bytes = changed(change);
        expect_error([&] { load(bytes); }, parts);
    };
    static const std::vector<float> zeros(4096, 0.0f);
    static std::vector<float> nan(12, 0.0f);
    nan[7] = std::numeric_limits<float>::quiet_NaN();
    refuses([](Bundle& b) { b.tensors.erase(b.tensors.begin() + 1); }, {"bad_format", "lora_b", "missing"});
    refuses(
        [](Bundle& b) {
            b.tensors.push_back(float_tensor("more", {2, 2}, std::span(zeros).first(4)));
        },
        {"bad_format", "'more'"});
    refuses(
        [](Bundle& b) {
            b.tensors[0] = float_tensor(b.tensors[0].name, {3, 1, 6}, std::span(zeros).first(18));
        },
        {"bad_format", "lora_a", "[3, 1, 6]", "[3, 2, 6]"});
    refuses(
        [](Bundle& b) {
            for (StoredTensor& t : b.tensors)
                if (t.name.ends_with("logits")) t = float_tensor(t.name, {3, 3}, std::span(nan).first(9));
        },
        {"bad_format", "logits", "position 7"});
    refuses([](Bundle& b) { b.config["rank"] = 4096; }, {"bad_format", "lora_a"});
    refuses([](Bundle& b) { b.config["rank"] = 0; }, {"bad_format", "rank"});
    refuses([](Bundle& b) { b.config["method"] = "future"; }, {"bad_format", "future"});
    refuses(
        [](Bundle& b) {
            b.config["common_skills"] = 65536;
            b.config["n_splits"] = 2;
        },
        {"bad_format"});
    refuses([](Bundle& b) { b.config = 3; }, {"bad_format"});
    refuses([](Bundle& b) { b.tasks.push_back({{"name", 3}}); }, {"bad_format", "tasks[3]"});
    refuses([](Bundle& b) { b.tasks.push_back(b.tasks[0]); }, {"bad_format", "antonym"});
    refuses([](Bundle& b) { b.tasks = Json::object({{"a", 1}}); }, {"bad_format", "tasks"});
    refuses([](Bundle& b) { b.tasks.erase(2); }, {"bad_format", "shape"});
    refuses([](Bundle& b) { b.backbone = Json::object(); }, {"backbone_mismatch", "unknown"});
}

TEST(Skillset, DoesNotSaveWhatCannotBeLoaded) {
    const auto skillset = make();
    skillset->method().parameters()[0].value.mutable_data_ptr<float>()[3] =
        std::numeric_limits<float>::infinity();
    expect_error([&] { skillset->save_to_memory(); }, {"numeric_error", "lora_a"});
}

}  // namespace
}  // namespace polyad
