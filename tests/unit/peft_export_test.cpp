// SPDX-License-Identifier: Apache-2.0
// What leaves as PEFT or GGUF computes what the skillset computed.
#include "routing/peft_export.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "base/random.h"
#include "io/gguf.h"
#include "routing/gguf_export.h"
#include "routing/peft_skillset.h"

namespace polyad {
namespace {

const std::filesystem::path fixtures = std::filesystem::path(POLYAD_SHARED_DIR) / "fixtures";

class Folder {
  public:
    Folder() : path(std::filesystem::temp_directory_path() / "polyad-peft-export-test") { clear(); }
    ~Folder() { clear(); }
    const std::filesystem::path path;

  private:
    void clear() const { std::filesystem::remove_all(path); }
};

class PeftExport : public testing::Test {
  protected:
    void SetUp() override {
        if (!std::filesystem::exists(fixtures)) GTEST_SKIP() << fixtures << " is missing";
        BackboneOptions precise;
        precise.precision = Precision::fp32;
        backbone_ = Backbone::open(fixtures / "gguf" / "tiny_llama.gguf", precise);
    }

    /// A skillset of two tasks whose every parameter is random.
    std::shared_ptr<Skillset> random_skillset(Json config) const {
        config["prompt"] = {{"style", "plain"}};
        std::vector<Task> tasks(2);
        tasks[0].name = "up";
        tasks[1].name = "down";
        auto skillset = Skillset::create(backbone_, tasks, config);
        Generator random(11);
        at::NoGradGuard no_grad;
        for (Parameter& p : skillset->method().parameters())
            random.fill_normal(p.value.mutable_data_ptr<float>(), static_cast<size_t>(p.value.numel()), 0,
                               0.3);
        skillset->method().parameters_changed();
        return skillset;
    }

    at::Tensor logits(const Skillset& skillset, int task) const {
        Batch batch;
        batch.tokens = {5, 9, 33, 7, 2, 61};
        batch.row_begin = {0, 6};
        batch.prompt_length = {3};
        RouteInput input;
        input.row_begin = batch.row_begin;
        input.prompt_length = batch.prompt_length;
        input.task_ids = {task};
        at::NoGradGuard no_grad;
        const auto adaptation = skillset.method().adapt(input);
        ForwardOptions options;
        options.adaptation = adaptation.get();
        return backbone_->logits(backbone_->hidden(batch, options));
    }

    void expect_equal(const Skillset& a, int task_a, const Skillset& b, int task_b,
                      const std::string& what) const {
        const at::Tensor want = logits(a, task_a), got = logits(b, task_b);
        const double off = (want - got).abs().max().item<double>();
        EXPECT_LT(off, 1e-4 * std::max(1.0, want.abs().max().item<double>())) << what;
    }

    std::shared_ptr<const Backbone> backbone_;
    Folder folder_;
};

TEST_F(PeftExport, EveryTaskIsOnePlainLora) {
    const Json methods[] = {{{"method", "lora"}, {"rank", 3}, {"alpha", 5}},
                            {{"method", "lora"}, {"rank", 4}, {"use_rslora", true}},
                            {{"method", "poly"}, {"rank", 2}, {"n_skills", 3}, {"alpha", 3}},
                            {{"method", "poly"}, {"rank", 2}, {"n_skills", 3}, {"combine", "products"}},
                            {{"method", "mhr"}, {"rank", 2}, {"n_skills", 3}, {"n_splits", 4}},
                            {{"method", "cpoly"}, {"rank", 2}, {"common_skills", 2}},
                            {{"method", "cpoly"}, {"rank", 2}, {"combine", "factors_joint"}},
                            {{"method", "cpoly"}, {"rank", 2}, {"combine", "products"}},
                            {{"method", "moelora_task"}, {"rank", 8}, {"n_experts", 4}}};
    for (const Json& config : methods) {
        const auto skillset = random_skillset(config);
        for (int task = 0; task < 2; ++task) {
            write_peft(folder_.path, export_peft(*skillset, task));
            const auto back = import_peft(backbone_, open_peft(folder_.path));
            EXPECT_EQ(back->method().config()["method"], "lora");
            expect_equal(*skillset, task, *back, 0, config.dump());
        }
    }
}

TEST_F(PeftExport, WholePolyKeepsTasksAndTables) {
    for (const char* granularity : {"finegrained", "blockwise", "coarsegrained"}) {
        const auto skillset = random_skillset({{"method", "mhr"},
                                               {"rank", 2},
                                               {"n_skills", 3},
                                               {"n_splits", 2},
                                               {"alpha", 4},
                                               {"router_granularity", granularity}});
        write_peft(folder_.path, export_peft(*skillset, -1));
        const auto back = import_peft(backbone_, open_peft(folder_.path));
        ASSERT_EQ(back->tasks().size(), 2u);
        EXPECT_EQ(back->tasks()[1].name, "down");
        for (int task = 0; task < 2; ++task) expect_equal(*skillset, task, *back, task, granularity);
    }
    const auto even = random_skillset({{"method", "poly"}, {"rank", 2}, {"train", "uniform"}});
    write_peft(folder_.path, export_peft(*even, -1));
    expect_equal(*even, 1, *import_peft(backbone_, open_peft(folder_.path)), 1, "uniform");
}

TEST_F(PeftExport, WhatCameFromPeftGoesBackBitForBit) {
    BackboneOptions precise;
    precise.precision = Precision::fp32;
    const auto backbone = Backbone::open(fixtures / "models" / "llama", precise);
    for (const char* name : {"lora", "rslora", "dora", "poly"}) {
        const PeftAdapter first = open_peft(fixtures / "peft" / "llama" / name);
        write_peft(folder_.path, export_peft(*import_peft(backbone, first), -1));
        const PeftAdapter second = open_peft(folder_.path);
        EXPECT_EQ(second.kind, first.kind);
        EXPECT_EQ(second.alpha, first.alpha);
        ASSERT_EQ(second.modules.size(), first.modules.size());
        for (size_t i = 0; i < first.modules.size(); ++i) {
            EXPECT_EQ(second.modules[i].path, first.modules[i].path);
            EXPECT_EQ(to_float(second.modules[i].a), to_float(first.modules[i].a)) << name;
            EXPECT_EQ(to_float(second.modules[i].b), to_float(first.modules[i].b)) << name;
            if (first.modules[i].magnitude) {
                EXPECT_EQ(to_float(*second.modules[i].magnitude), to_float(*first.modules[i].magnitude));
            }
            if (first.modules[i].logits) {
                EXPECT_EQ(to_float(*second.modules[i].logits), to_float(*first.modules[i].logits));
            }
        }
    }
}

TEST_F(PeftExport, TargetsAreShortWhereTheyCan) {
    const auto all =
        random_skillset({{"method", "lora"}, {"rank", 2}, {"target_modules", {"v_proj", "q_proj"}}});
    EXPECT_EQ(export_peft(*all, -1).target_modules, (std::vector<std::string>{"q_proj", "v_proj"}));
    const auto some = random_skillset(
        {{"method", "lora"}, {"rank", 2}, {"target_modules", "model\\.layers\\.0\\..*q_proj"}});
    EXPECT_EQ(export_peft(*some, -1).target_modules,
              (std::vector<std::string>{"model.layers.0.self_attn.q_proj"}));
}

/// What a call is refused with.
template <class Call>
std::string refusal(Code code, Call call) {
    try {
        call();
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), code) << e.what();
        return e.what();
    }
    ADD_FAILURE() << "nothing was refused";
    return "";
}

TEST_F(PeftExport, RefusesByName) {
    const auto cpoly = random_skillset({{"method", "cpoly"}, {"rank", 2}});
    EXPECT_NE(refusal(Code::invalid_argument, [&] { export_peft(*cpoly, -1); }).find("'up'"),
              std::string::npos);
    EXPECT_NE(refusal(Code::invalid_argument, [&] { export_gguf_lora(*cpoly, -1); }).find("'up'"),
              std::string::npos);
    const auto products = random_skillset({{"method", "poly"}, {"combine", "products"}});
    refusal(Code::invalid_argument, [&] { export_peft(*products, -1); });
    const auto molora = random_skillset({{"method", "molora"}, {"rank", 2}, {"n_experts", 2}});
    EXPECT_NE(refusal(Code::unsupported, [&] { export_peft(*molora, 0); }).find("molora"), std::string::npos);
    EXPECT_NE(refusal(Code::invalid_config,
                      [&] {
                          export_peft(*cpoly, 0, {{"bse", 1}});
                      })
                  .find("bse"),
              std::string::npos);
    {
        at::NoGradGuard no_grad;
        cpoly->method().parameters()[0].value.fill_(std::numeric_limits<float>::quiet_NaN());
        cpoly->method().parameters_changed();
    }
    refusal(Code::numeric_error, [&] { export_peft(*cpoly, 0); });
}

at::Tensor tensor_of(const GgufFile& file, const std::string& name) {
    const StoredTensor* stored = file.find_tensor(name);
    if (!stored) {
        ADD_FAILURE() << name << " is missing";
        return {};
    }
    std::vector<float> values = to_float(*stored);
    return at::from_blob(values.data(), stored->shape, at::kFloat).clone();
}

TEST_F(PeftExport, GgufLoraHasLlamaCppsNamesShapesAndRows) {
    const auto skillset = random_skillset({{"method", "cpoly"}, {"rank", 2}});
    const std::string bytes = export_gguf_lora(*skillset, 1);
    const Bytes copy = Bytes::copy_of(bytes, "lora.gguf");
    const GgufFile file = GgufFile::parse(copy);
    EXPECT_EQ(file.version(), 3u);
    EXPECT_EQ(file.string("general.type"), "adapter");
    EXPECT_EQ(file.string("general.architecture"), "llama");
    EXPECT_EQ(file.string("general.name"), "down");
    EXPECT_EQ(file.string("adapter.type"), "lora");
    EXPECT_EQ(file.find("adapter.lora.alpha")->type, GgufType::f32);
    EXPECT_EQ(file.number("adapter.lora.alpha"), 4.0);  // the rank of a common and a private pair
    const Bytes base_bytes = Bytes::map_file(fixtures / "gguf" / "tiny_llama.gguf");
    const GgufFile base = GgufFile::parse(base_bytes);
    const int64_t heads = *base.integer("llama.attention.head_count"),
                  kv_heads = *base.integer("llama.attention.head_count_kv");
    const std::pair<const char*, const char*> names[] = {
        {"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"}, {"attn_v", "self_attn.v_proj"},
        {"attn_output", "self_attn.o_proj"}, {"ffn_gate", "mlp.gate_proj"},  {"ffn_up", "mlp.up_proj"},
        {"ffn_down", "mlp.down_proj"}};
    size_t tensors = 0;
    for (const Site& site : backbone_->sites()) {
        for (const auto& [theirs, ours] : names) {
            if (!site.path.ends_with(ours)) continue;
            const std::string name = text("blk.", site.layer, ".", theirs, ".weight");
            at::Tensor a = tensor_of(file, name + ".lora_a"), b = tensor_of(file, name + ".lora_b");
            at::Tensor frozen = tensor_of(base, name);
            ASSERT_EQ(a.sizes(), (at::IntArrayRef{4, site.d_in}));
            ASSERT_EQ(b.sizes(), (at::IntArrayRef{site.d_out, 4}));
            // Rows of the base's own q and k show the order; undone as the fixtures' README says.
            const int64_t h = theirs == std::string("attn_q")   ? heads
                              : theirs == std::string("attn_k") ? kv_heads
                                                                : 0;
            const auto undo = [&](const at::Tensor& w) {
                return h == 0 ? w
                              : w.reshape({h, site.d_out / h / 2, 2, w.size(1)})
                                    .transpose(1, 2)
                                    .reshape(w.sizes());
            };
            EXPECT_TRUE(undo(frozen).equal(backbone_->frozen(site.path + ".weight"))) << name;
            const auto want = skillset->method().collapse(site, 1);
            EXPECT_TRUE(a.equal(want->a)) << name;
            EXPECT_TRUE(undo(b).equal(want->b)) << name;
            tensors += 2;
        }
    }
    EXPECT_EQ(file.tensors().size(), tensors);
    EXPECT_EQ(tensors, 2 * backbone_->sites().size());
}

}  // namespace
}  // namespace polyad
