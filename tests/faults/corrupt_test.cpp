// SPDX-License-Identifier: Apache-2.0
// Broken model files and adapters must be refused with an error, valid controls must load, and nothing may
// crash: the shared corpus, then valid files cut at every 64 bytes and with bytes changed by a seeded
// generator.
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "base/random.h"
#include "io/bundle.h"
#include "io/gguf.h"
#include "io/model_files.h"
#include "io/model_layout.h"
#include "io/peft.h"

namespace polyad {
namespace {

const std::filesystem::path corpus = std::filesystem::path(POLYAD_SHARED_DIR) / "fixtures" / "corrupt";

/// Modules of a model that can be adapted: every matrix of its layers.
std::vector<BaseModule> modules_of(const ModelConfig& config) {
    std::vector<BaseModule> out;
    for (const TensorSpec& spec : model_layout(config))
        if (spec.shape.size() == 2 && spec.name.ends_with(".weight") &&
            spec.name.find("layers.") != std::string::npos)
            out.push_back({spec.name.substr(0, spec.name.size() - 7), spec.shape[1], spec.shape[0]});
    return out;
}

void load(const std::string& kind, const std::filesystem::path& path, const std::filesystem::path& base) {
    if (kind == "peft_folder")
        check_against_base(open_peft(path), modules_of(open_model_files(base).config));
    else
        open_model_files(path).fingerprint();
}

TEST(Corrupt, SharedCorpus) {
    if (!std::filesystem::exists(corpus)) GTEST_SKIP() << corpus << " is missing";
    const Json manifest = parse_json(Bytes::map_file(corpus / "manifest.json").text(), "manifest");
    int checked = 0;
    for (const Json& item : manifest["items"]) {
        const auto path = item["path"].get<std::string>(), expect = item["expect"].get<std::string>();
        std::string outcome = "accept", message;
        try {
            load(item["kind"], corpus / path, corpus / item.value("base", "ok_hf"));
        } catch (const Error& e) {
            outcome = "reject";
            message = e.what();
            EXPECT_NE(e.code(), Code::internal) << path << ": " << message;
            EXPECT_LT(message.size(), 2000u) << path;
            EXPECT_EQ(find_invalid_utf8(message), std::string::npos) << path;
        } catch (const std::exception& e) {
            ADD_FAILURE() << path << ": not a polyad::Error: " << e.what();
            continue;
        }
        ++checked;
        if (expect != "no_crash") {
            EXPECT_EQ(outcome, expect) << path << " (" << item["defect"] << ") " << message;
        }
    }
    EXPECT_EQ(checked, static_cast<int>(manifest["items"].size()));
    EXPECT_GT(checked, 90);
}

/// Calls `parse` on damaged copies of `original`; anything but success or a polyad::Error fails the test.
template <class Parse>
void damage(const std::string& original, int changes, Parse parse) {
    const auto attempt = [&](const std::string& bytes, const std::string& how) {
        try {
            parse(Bytes::copy_of(bytes, "damaged"));
        } catch (const Error& e) {
            EXPECT_NE(e.code(), Code::internal) << how << ": " << e.what();
        } catch (const std::exception& e) {
            ADD_FAILURE() << how << ": not a polyad::Error: " << e.what();
        }
    };
    const size_t step = std::max<size_t>(64, original.size() / 4096 / 64 * 64);
    for (size_t n = 0; n < original.size(); n += step) attempt(original.substr(0, n), text("cut at ", n));
    Generator random(7);
    for (int i = 0; i < changes; ++i) {
        std::string bytes = original;
        // Most damage goes to the first quarter, where headers are.
        const size_t reach = i % 4 ? std::max<size_t>(1, bytes.size() / 4) : bytes.size();
        for (uint64_t k = random.below(3) + 1; k > 0; --k)
            bytes[random.below(reach)] = static_cast<char>(random.below(2) ? random.below(256) : 255);
        attempt(bytes, text("change ", i));
    }
}

std::string file_text(const std::filesystem::path& path) {
    return std::string(Bytes::map_file(path).text());
}

TEST(Corrupt, DamagedGguf) {
    if (!std::filesystem::exists(corpus)) GTEST_SKIP() << corpus << " is missing";
    damage(file_text(corpus / "ok.gguf"), 3000,
           [](const Bytes& bytes) { open_model_files(bytes).fingerprint(); });
}

TEST(Corrupt, DamagedSafetensors) {
    if (!std::filesystem::exists(corpus)) GTEST_SKIP() << corpus << " is missing";
    const Bytes config = Bytes::map_file(corpus / "ok_hf" / "config.json");
    damage(file_text(corpus / "ok_hf" / "model.safetensors"), 3000, [&](const Bytes& bytes) {
        const ModelConfig c = parse_hf_config(config.text(), "config.json");
        TensorStore::from_safetensors(parse_safetensors(bytes), c.family).validate(c);
    });
    damage(std::string(config.text()), 3000,
           [](const Bytes& bytes) { parse_hf_config(bytes.text(), "config.json"); });
}

TEST(Corrupt, DamagedPeft) {
    if (!std::filesystem::exists(corpus)) GTEST_SKIP() << corpus << " is missing";
    for (const char* name : {"ok_peft_lora", "ok_peft_poly"}) {
        const Json config =
            parse_json(file_text(corpus / name / "adapter_config.json"), "adapter_config.json");
        damage(file_text(corpus / name / "adapter_model.safetensors"), 1000,
               [&](const Bytes& bytes) { parse_peft(config, parse_safetensors(bytes).tensors, "damaged"); });
    }
}

TEST(Corrupt, DamagedBundle) {
    Bundle bundle;
    bundle.backbone = {{"name", "tiny"}, {"fingerprint", "00"}};
    bundle.config = {{"method", "cpoly"}, {"rank", 8}};
    bundle.tasks = Json::array({{{"name", "antonym"}, {"labels", {"a", "b"}}}});
    const std::vector<float> values(96, 0.5f);
    for (int i = 0; i < 8; ++i)
        bundle.tensors.push_back(float_tensor(text("layer.", i, ".lora_a"), {8, 12}, values));
    const std::string valid = encode_bundle(bundle);
    for (size_t n = 0; n < valid.size(); ++n)
        EXPECT_THROW(decode_bundle(Bytes::copy_of(valid.substr(0, n), "cut")), Error) << "cut at " << n;
    damage(valid, 5000, [](const Bytes& bytes) { decode_bundle(bytes); });
}

}  // namespace
}  // namespace polyad
