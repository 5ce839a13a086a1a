// SPDX-License-Identifier: Apache-2.0
#include "io/peft.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "base/error.h"

namespace polyad {
namespace {

const std::filesystem::path fixtures = std::filesystem::path(POLYAD_SHARED_DIR) / "fixtures" / "peft";

TEST(Peft, ReadsAndWritesEveryKind) {
    if (!std::filesystem::exists(fixtures)) GTEST_SKIP() << fixtures << " is missing";
    const auto copy = std::filesystem::temp_directory_path() / "polyad-peft-test";
    const std::pair<const char*, PeftKind> kinds[] = {{"lora", PeftKind::lora},
                                                      {"rslora", PeftKind::rslora},
                                                      {"dora", PeftKind::dora},
                                                      {"poly", PeftKind::poly}};
    for (const char* base : {"llama", "t5_v10"})
        for (const auto& [name, kind] : kinds) {
            const PeftAdapter adapter = open_peft(fixtures / base / name);
            EXPECT_EQ(adapter.kind, kind);
            EXPECT_EQ(adapter.base_model, base);
            ASSERT_FALSE(adapter.modules.empty());
            write_peft(copy, adapter);
            const PeftAdapter back = open_peft(copy);
            EXPECT_EQ(back.kind, kind);
            EXPECT_EQ(back.config, adapter.config);
            ASSERT_EQ(back.modules.size(), adapter.modules.size());
            for (size_t i = 0; i < back.modules.size(); ++i) {
                const PeftModule &a = adapter.modules[i], &b = back.modules[i];
                EXPECT_EQ(a.path, b.path);
                EXPECT_EQ(a.scale, b.scale);
                EXPECT_EQ(a.d_in, b.d_in);
                EXPECT_EQ(a.d_out, b.d_out);
                EXPECT_EQ(to_float(a.a), to_float(b.a));
                EXPECT_EQ(to_float(a.b), to_float(b.b));
                EXPECT_EQ(a.magnitude.has_value(), kind == PeftKind::dora);
                EXPECT_EQ(a.logits.has_value(), kind == PeftKind::poly);
            }
        }
    std::filesystem::remove_all(copy);
}

TEST(Peft, ScalesAndWidths) {
    if (!std::filesystem::exists(fixtures)) GTEST_SKIP() << fixtures << " is missing";
    const PeftAdapter lora = open_peft(fixtures / "llama" / "lora");
    EXPECT_EQ(lora.modules[0].path, "model.layers.0.mlp.down_proj");
    EXPECT_EQ(lora.modules[0].scale, 2.0);  // alpha 8 over rank 4
    EXPECT_EQ(lora.modules[0].d_in, 112);
    EXPECT_EQ(lora.modules[0].d_out, 64);
    EXPECT_EQ(open_peft(fixtures / "llama" / "rslora").modules[0].scale, 4.0);  // 8 / sqrt(4)
    const PeftAdapter poly = open_peft(fixtures / "llama" / "poly");
    EXPECT_EQ(poly.modules[0].scale, 0.25);  // 1 / rank
    EXPECT_EQ(poly.modules[0].d_in, 112);    // two splits of 56
    EXPECT_EQ(poly.tasks, 3);
}

TEST(Peft, PatternsChangeOneModule) {
    const std::vector<float> values(64, 1.0f);
    const auto tensor = [&](const char* name, int64_t rows, int64_t columns) {
        return float_tensor(name, {rows, columns},
                            std::span(values).first(static_cast<size_t>(rows * columns)));
    };
    const std::vector<StoredTensor> tensors = {tensor("base_model.model.l.q_proj.lora_A.weight", 2, 8),
                                               tensor("base_model.model.l.q_proj.lora_B.weight", 8, 2),
                                               tensor("base_model.model.l.v_proj.lora_A.weight", 4, 8),
                                               tensor("base_model.model.l.v_proj.lora_B.weight", 8, 4)};
    Json config = {
        {"peft_type", "LORA"}, {"r", 4}, {"lora_alpha", 8}, {"target_modules", {"q_proj", "v_proj"}}};
    EXPECT_THROW(parse_peft(config, tensors, "test"), Error);  // q_proj has rank 2
    config["rank_pattern"] = {{"q_proj", 2}};
    config["alpha_pattern"] = {{"l.v_proj", 16}};
    const PeftAdapter adapter = parse_peft(config, tensors, "test");
    EXPECT_EQ(adapter.modules[0].scale, 4.0);
    EXPECT_EQ(adapter.modules[1].scale, 4.0);
    config["rank_pattern"] = {{"^.*\\.(q|k)_proj", 2}};
    config["alpha_pattern"] = {{"l\\.[v]_proj", 16}};
    EXPECT_EQ(parse_peft(config, tensors, "test").modules[1].scale, 4.0);
    config["bias"] = "all";
    EXPECT_THROW(parse_peft(config, tensors, "test"), Error);
}

/// Runs `call` and returns the message of the error it must end with.
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

TEST(Peft, RefusesByName) {
    const std::vector<float> values(64, 1.0f);
    const auto tensor = [&](const char* name, int64_t rows, int64_t columns) {
        return float_tensor(name, {rows, columns},
                            std::span(values).first(static_cast<size_t>(rows * columns)));
    };
    const StoredTensor a = tensor("base_model.model.l.q_proj.lora_A.weight", 2, 8),
                       b = tensor("base_model.model.l.q_proj.lora_B.weight", 8, 2);
    const std::vector<BaseModule> base = {{"l.q_proj", 8, 8}};
    const Json good = {{"peft_type", "LORA"}, {"r", 2}, {"target_modules", {"q_proj"}}};
    const auto refused = [&](const char* key, const Json& value, Code code, const char* word) {
        Json config = good;
        config[key] = value;
        const std::string message = refusal(code, [&] {
            check_against_base(parse_peft(config, {a, b}, "test"), base);
        });
        EXPECT_NE(message.find(word), std::string::npos) << message;
    };
    EXPECT_NO_THROW(check_against_base(parse_peft(good, {a, b}, "test"), base));
    refused("peft_type", "IA3", Code::unsupported, "IA3");
    refused("r", 4, Code::bad_format, "lora_A");
    refused("r", 0, Code::bad_format, "r");
    refused("use_dora", true, Code::bad_format, "lora_magnitude_vector");
    refused("target_modules", {"k_proj"}, Code::bad_format, "k_proj");
    refused("target_modules", "(.*k_proj", Code::bad_format, "without ')'");
    refused("target_modules", "(?<=q)x", Code::unsupported, "look-behind");
    refused("target_modules", std::string(5000, 'q'), Code::bad_format, "characters");
    refused("target_modules", "((.+)+)+k_proj", Code::bad_format, "matches no module");
    refused("target_modules", "((((q{90}){90}){90}){90})", Code::bad_format, "too large");
    refused("rank_pattern", {{"(q", 2}}, Code::bad_format, "(q");
    EXPECT_NE(refusal(Code::bad_format, [&] { parse_peft(good, {a}, "test"); }).find("lora_B"),
              std::string::npos);
    EXPECT_NE(refusal(Code::bad_format, [&] { parse_peft(good, {}, "test"); }).find("no tensors"),
              std::string::npos);
    EXPECT_NE(refusal(Code::bad_format,
                      [&] {
                          check_against_base(parse_peft(good, {a, b}, "test"), {{"l.q_proj", 8, 16}});
                      })
                  .find("8 -> 16"),
              std::string::npos);
}

TEST(Peft, ChecksTheBase) {
    if (!std::filesystem::exists(fixtures)) GTEST_SKIP() << fixtures << " is missing";
    const PeftAdapter adapter = open_peft(fixtures / "llama" / "rslora");
    std::vector<BaseModule> base;
    for (const PeftModule& module : adapter.modules) base.push_back({module.path, module.d_in, module.d_out});
    EXPECT_NO_THROW(check_against_base(adapter, base));
    base[0].d_in += 1;
    EXPECT_THROW(check_against_base(adapter, base), Error);
    base.erase(base.begin());
    EXPECT_THROW(check_against_base(adapter, base), Error);
}

}  // namespace
}  // namespace polyad
