// SPDX-License-Identifier: Apache-2.0
// Every damaged model of the shared corpus through the shipped library's public interface: a status that says
// what is wrong, or a model that opens, as the corpus' manifest demands; never a crash.
#include <gtest/gtest.h>
#include <polyad/polyad.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace {

TEST(CorruptFiles, OpenAsTheManifestDemands) {
    const std::filesystem::path folder = std::filesystem::path(POLYAD_SHARED_DIR) / "fixtures/corrupt";
    std::ifstream file(folder / "manifest.json");
    if (!file) GTEST_SKIP() << folder << " is not here";
    const auto manifest = nlohmann::json::parse(file);
    polyad_context* context = nullptr;
    ASSERT_EQ(polyad_context_create(nullptr, &context), nullptr);
    int models = 0;
    for (const auto& item : manifest.at("items")) {
        const std::string kind = item.at("kind"), path = item.at("path"), expect = item.at("expect");
        if (kind.rfind("peft", 0) == 0) continue;  // read by cpp_impl/io/peft.h; tests/faults covers them
        polyad_backbone* backbone = nullptr;
        polyad_status* status = polyad_backbone_open(context, (folder / path).c_str(), nullptr, &backbone);
        const bool opened = status == nullptr;
        if (expect == "accept") {
            EXPECT_TRUE(opened) << path << ": " << polyad_status_message(status);
        }
        if (expect == "reject") {
            EXPECT_FALSE(opened) << path << ": " << item.at("defect");
        }
        if (!opened) {
            EXPECT_EQ(backbone, nullptr) << path;
            EXPECT_GT(std::string(polyad_status_message(status)).size(), 10u) << path;
            EXPECT_NE(polyad_status_code(status), POLYAD_INTERNAL)
                << path << ": " << polyad_status_message(status);
        }
        polyad_status_release(status);
        polyad_backbone_release(backbone);
        ++models;
    }
    EXPECT_GT(models, 50);
    polyad_context_release(context);
}

}  // namespace
