// SPDX-License-Identifier: Apache-2.0
// Adapters side by side and merged. PEFT's own merges are compared in tests/peft.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "routing/peft_set.h"
#include "routing/peft_skillset.h"
#include "skills/merge.h"

namespace polyad {
namespace {

const std::filesystem::path fixtures = std::filesystem::path(POLYAD_SHARED_DIR) / "fixtures";

template <class Call>
void expect_refused(Code code, const char* word, Call call) {
    try {
        call();
        ADD_FAILURE() << "nothing was refused, wanted " << word;
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), code) << e.what();
        EXPECT_NE(std::string(e.what()).find(word), std::string::npos) << e.what();
    }
}

class LoraSetTest : public testing::Test {
  protected:
    void SetUp() override {
        if (!std::filesystem::exists(fixtures)) GTEST_SKIP() << fixtures << " is missing";
        BackboneOptions precise;
        precise.precision = Precision::fp32;
        backbone_ = Backbone::open(fixtures / "models" / "llama", precise);
        adapters_ = {adapter(3, 1.5, {"q_proj", "v_proj"}, 1), adapter(5, 2.0, {"v_proj", "down_proj"}, 2)};
    }

    PeftAdapter adapter(int64_t rank, double scale, const std::vector<std::string>& targets,
                        uint64_t seed) const {
        PeftAdapter out;
        out.rank = rank;
        out.alpha = scale * static_cast<double>(rank);
        out.target_modules = targets;
        out.config = Json::object();
        Generator random(seed);
        const auto drawn = [&](int64_t rows, int64_t columns) {
            std::vector<float> values(static_cast<size_t>(rows * columns));
            random.fill_normal(values.data(), values.size(), 0, 0.2);
            return float_tensor("", {rows, columns}, values);
        };
        for (const Site& site : backbone_->sites()) {
            if (std::find(targets.begin(), targets.end(), site.name()) == targets.end()) continue;
            PeftModule module;
            module.path = site.path;
            module.rank = rank;
            module.scale = scale;
            module.d_in = site.d_in;
            module.d_out = site.d_out;
            module.a = drawn(rank, site.d_in);
            module.b = drawn(site.d_out, rank);
            out.modules.push_back(std::move(module));
        }
        return out;
    }

    RouteInput input(std::vector<int32_t> tasks, std::vector<std::vector<float>> weights = {}) const {
        RouteInput out;
        out.row_begin = batch(tasks.size()).row_begin;
        out.prompt_length.assign(tasks.size(), 3);
        out.task_ids = std::move(tasks);
        out.weights = std::move(weights);
        return out;
    }
    Batch batch(size_t rows) const {
        Batch out;
        out.row_begin = {0};
        for (size_t b = 0; b < rows; ++b) {
            out.tokens.insert(out.tokens.end(), {5, 9, 33, 7, 61});
            out.row_begin.push_back(out.size());
        }
        return out;
    }
    at::Tensor hidden(const Skillset& skillset, const RouteInput& route) const {
        const auto adaptation = skillset.method().adapt(route);
        ForwardOptions options;
        options.adaptation = adaptation.get();
        return backbone_->hidden(batch(route.task_ids.size()), options);
    }
    static void expect_close(const at::Tensor& got, const at::Tensor& want, const char* what) {
        EXPECT_LT((got.detach() - want.detach()).abs().max().item<double>(), 2e-5) << what;
    }

    std::shared_ptr<const Backbone> backbone_;
    std::vector<PeftAdapter> adapters_;
    const std::vector<std::string> names_ = {"one", "two"};
};

TEST_F(LoraSetTest, TasksAreTheAdaptersAndWeightsMixThem) {
    const auto set = import_peft_set(backbone_, adapters_, names_);
    EXPECT_EQ(set->task_index("two"), 1);
    EXPECT_EQ(set->method().task_weights(1), (std::vector<float>{0, 1}));
    at::NoGradGuard no_grad;
    for (int k = 0; k < 2; ++k)
        expect_close(hidden(*set, input({k})),
                     hidden(*import_peft(backbone_, adapters_[static_cast<size_t>(k)]), input({-1})),
                     "alone");
    // Concatenation is the same function with its weights inside.
    const auto cat =
        import_peft_set(backbone_, adapters_, names_, {{"combination", "cat"}, {"weights", {0.6, -1.25}}});
    EXPECT_EQ(cat->method().config()["rank"], 8);
    const at::Tensor want = hidden(*cat, input({-1}));
    expect_close(hidden(*set, input({-1}, {{0.6f, -1.25f}})), want, "explicit");
    // Rows of one batch, each with its own mix, give what they give alone.
    const at::Tensor mixed = hidden(*set, input({0, -1, 1}, {{}, {0.6f, -1.25f}, {}}));
    expect_close(mixed.slice(0, 0, 5), hidden(*set, input({0})), "row 0");
    expect_close(mixed.slice(0, 5, 10), want, "row 1");
    expect_close(mixed.slice(0, 10, 15), hidden(*set, input({1})), "row 2");
    // No weight at all: the backbone alone.
    EXPECT_TRUE(hidden(*set, input({-1}, {{0, 0}})).equal(backbone_->hidden(batch(1))));
}

TEST_F(LoraSetTest, LearnsItsTableAndReturnsFromABundle) {
    const auto set = import_peft_set(backbone_, adapters_, names_);
    set->method().set_training("router");
    Task task;
    task.name = "both";
    EXPECT_EQ(set->add_task(task, "uniform", 1), 2);
    EXPECT_EQ(set->method().task_weights(2), (std::vector<float>{0.5f, 0.5f}));
    Parameter* table = nullptr;
    for (Parameter& p : set->method().parameters()) {
        EXPECT_EQ(p.trainable, p.name == "weights");
        if (p.name == "weights") table = &p;
    }
    ASSERT_NE(table, nullptr);
    const auto loss = [&] { return hidden(*set, input({2})).to(at::kDouble).square().sum(); };
    loss().backward();
    const at::Tensor gradient = table->value.grad();
    for (int64_t k = 0; k < 2; ++k) {
        at::NoGradGuard no_grad;
        // Central differences of two widths, extrapolated: wide enough for float32 sums, without their
        // curvature.
        const auto difference = [&](double step) {
            table->value[2][k].add_(step);
            const double above = loss().item<double>();
            table->value[2][k].sub_(2 * step);
            const double below = loss().item<double>();
            table->value[2][k].add_(step);
            return (above - below) / (2 * step);
        };
        const double slope = (4 * difference(1e-2) - difference(2e-2)) / 3;
        EXPECT_NEAR(gradient[2][k].item<double>(), slope, 1e-3 * std::max(1.0, std::abs(slope)));
    }
    EXPECT_EQ(gradient[0].abs().sum().item<double>(), 0.0);
    const at::Tensor before = hidden(*set, input({2})).detach();
    at::NoGradGuard no_grad;
    expect_close(hidden(*set, input({2})), before, "served");
    const std::string bytes = set->save_to_memory();
    const auto again = Skillset::load(backbone_, Bytes::copy_of(std::string_view(bytes), "bundle"));
    EXPECT_TRUE(hidden(*again, input({2})).equal(hidden(*set, input({2}))));
    EXPECT_EQ(again->save_to_memory(), bytes);
}

TEST_F(LoraSetTest, DifferentRanksWithinOneAdapterBecomeOne) {
    PeftAdapter uneven = adapters_[0];
    const PeftAdapter other = adapter(5, 0.5, {"v_proj"}, 9);
    for (PeftModule& module : uneven.modules)
        for (const PeftModule& wider : other.modules)
            if (wider.path == module.path) module = wider;
    const auto merged = import_peft_set(backbone_, {uneven}, {"x"}, {{"combination", "cat"}});
    EXPECT_EQ(merged->method().config()["method"], "lora");
    const auto set = import_peft_set(backbone_, {uneven}, {"x"});
    at::NoGradGuard no_grad;
    expect_close(hidden(*merged, input({-1})), hidden(*set, input({0})), "uneven");
}

TEST_F(LoraSetTest, RefusesByName) {
    const auto with = [&](const Json& options) {
        return [this, options] { import_peft_set(backbone_, adapters_, names_, options); };
    };
    const auto config = Code::invalid_config;
    expect_refused(config, "q_proj", [&] {
        auto both = adapters_;
        both[1] = adapter(5, 2.0, {"q_proj"}, 2);
        import_peft_set(backbone_, both, names_, {{"combination", "linear"}});
    });
    expect_refused(config, "svd", with({{"combination", "svd"}}));
    expect_refused(config, "density", with({{"combination", "ties"}}));
    expect_refused(config, "density", with({{"combination", "ties"}, {"density", 0}}));
    expect_refused(config, "density", with({{"combination", "cat"}, {"density", 0.5}}));
    expect_refused(config, "each request", with({{"weights", {1, 2}}}));
    expect_refused(config, "2 numbers", with({{"combination", "cat"}, {"weights", {1}}}));
    expect_refused(config, "majority_sign",
                   with({{"combination", "ties"}, {"density", 0.5}, {"majority_sign", "loudest"}}));
    expect_refused(config, "combnation", with({{"combnation", "cat"}}));
    expect_refused(config, "2 names", with({{"tasks", {"a"}}}));
    auto dora = adapters_;
    dora[1].kind = PeftKind::dora;
    expect_refused(Code::unsupported, "'two' is dora", [&] { import_peft_set(backbone_, dora, names_); });
    auto other = adapters_;
    other[0].modules[0].d_in += 1;
    expect_refused(Code::bad_format, "the base's is", [&] { import_peft_set(backbone_, other, names_); });
    auto hole = adapters_;
    hole[0].modules[0].a =
        float_tensor("", hole[0].modules[0].a.shape,
                     std::vector<float>(static_cast<size_t>(hole[0].modules[0].a.elements()), std::nanf("")));
    expect_refused(Code::bad_format, "NaN", [&] { import_peft_set(backbone_, hole, names_); });
    const auto set = import_peft_set(backbone_, adapters_, names_);
    expect_refused(Code::unknown_task, "unknown_task", [&] { set->method().adapt(input({-1})); });
    expect_refused(Code::invalid_argument, "2 skills", [&] {
        set->method().adapt(input({-1}, {{1, 2, 3}}));
    });
    const auto made = [&](const Json& adapters) {
        return [this, adapters] {
            Task task;
            task.name = "t";
            Skillset::create(backbone_, {task}, {{"method", "lora_set"}, {"adapters", adapters}});
        };
    };
    expect_refused(config, "adapters", made(Json::array()));
    expect_refused(config, "twice", made({{{"name", "x"}}, {{"name", "x"}}}));
    expect_refused(config, "adapters[0]", made({{{"rank", 0}}}));
    expect_refused(config, "adapters[0].rank_pattern", made({{{"rank_pattern", {{"a", -1}}}}}));
}

TEST_F(LoraSetTest, TakesXLorasExperts) {
    const auto folder = std::filesystem::temp_directory_path() / "polyad-xlora-test";
    std::filesystem::remove_all(folder);
    write_peft(folder / "math", adapters_[0]);
    write_peft(folder / "law", adapters_[1]);
    const auto config = [&](const Json& experts) {
        write_file_atomically(
            folder / "adapter_config.json",
            Json({{"peft_type", "XLORA"}, {"hidden_size", 64}, {"adapters", experts}}).dump());
    };
    config({{"math", "/where/it/was"}, {"law", "hub/name"}});
    const auto set = import_peft_folder(backbone_, folder, Json::object());
    at::NoGradGuard no_grad;
    expect_close(hidden(*set, input({set->task_index("math")})),
                 hidden(*import_peft(backbone_, adapters_[0]), input({-1})), "math");
    config({{"medicine", "x"}});
    expect_refused(Code::not_found, "medicine",
                   [&] { import_peft_folder(backbone_, folder, Json::object()); });
    config({{"../math", "x"}});
    expect_refused(Code::bad_format, "no folder's name",
                   [&] { import_peft_folder(backbone_, folder, Json::object()); });
    config(Json::object());
    expect_refused(Code::bad_format, "adapters",
                   [&] { import_peft_folder(backbone_, folder, Json::object()); });
    std::filesystem::remove_all(folder);
}

at::Tensor row(std::vector<float> values) {
    return at::tensor(values, at::kFloat).view({1, -1});
}

TEST(Merge, ClosedForms) {
    Generator noise(1);
    const std::vector<at::Tensor> t = {row({4, -1, 2, -3}), row({-5, 1, 1, -1})};
    const std::vector<double> c = {1, 2};
    EXPECT_TRUE(merge_factors(t, c, {Merge::linear}, noise).equal(row({-6, 1, 4, -5})));
    EXPECT_TRUE(merge_factors(t, c, {Merge::magnitude_prune, 0.5}, noise).equal(row({-6, 2, 0, -3})) ||
                merge_factors(t, c, {Merge::magnitude_prune, 0.5}, noise).equal(row({-6, 0, 2, -3})) ||
                merge_factors(t, c, {Merge::magnitude_prune, 0.5}, noise).equal(row({-6, 0, 0, -5})));
    // All entries stay. Signs elected by sums: -, + (a sum of 0 elects +), +, -.
    EXPECT_TRUE(merge_factors(t, c, {Merge::ties, 1.0}, noise).equal(row({-10, 2, 2, -2.5})));
    const std::vector<at::Tensor> three = {row({3, 0}), row({-1, 0}), row({-1, 5})};
    EXPECT_TRUE(merge_factors(three, {1, 1, 1}, {Merge::ties, 1.0}, noise).equal(row({3, 5})));
    EXPECT_TRUE(merge_factors(three, {1, 1, 1}, {Merge::ties, 1.0, true}, noise).equal(row({-1, 5})));
    // 4 and -3 stay of the first, -5 and one of the ones of the second.
    const at::Tensor pruned = merge_factors(t, c, {Merge::ties, 0.5}, noise);
    EXPECT_EQ(pruned[0][0].item<float>(), -10.0f);
}

TEST(Merge, DareKeepsTheMeanAndItsSeed) {
    const at::Tensor ones = at::tensor(std::vector<float>(40000, 1.0f)).view({200, 200});
    const auto drawn = [&](uint64_t seed, Merge merge) {
        Generator noise(seed);
        return merge_factors({ones, ones}, {1.0, 0.5}, {merge, 0.25}, noise);
    };
    const at::Tensor linear = drawn(7, Merge::dare_linear);
    EXPECT_NEAR(linear.mean().item<double>(), 1.5, 0.05);
    // Each adapter contributes 0 or its weight over the density.
    for (const float value : {0.0f, 4.0f, 2.0f, 6.0f})
        EXPECT_GT(linear.eq(value).sum().item<int64_t>(), 1000);
    EXPECT_EQ(linear.eq(0)
                  .logical_or(linear.eq(4))
                  .logical_or(linear.eq(2))
                  .logical_or(linear.eq(6))
                  .sum()
                  .item<int64_t>(),
              40000);
    EXPECT_TRUE(linear.equal(drawn(7, Merge::dare_linear)));
    EXPECT_FALSE(linear.equal(drawn(8, Merge::dare_linear)));
    const at::Tensor ties = drawn(7, Merge::dare_ties);  // the mean of those that stayed: 0, 4, 2 or 3
    EXPECT_EQ(ties.eq(3).sum().item<int64_t>(), linear.eq(6).sum().item<int64_t>());
}

}  // namespace
}  // namespace polyad
