// SPDX-License-Identifier: Apache-2.0
#include "io/bundle.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "io/hash.h"

namespace polyad {
namespace {

Bundle sample() {
    Bundle bundle;
    bundle.backbone = {
        {"name", "tiny"}, {"family", "llama"}, {"fingerprint", "0123"}, {"width", 64}, {"layers", 2}};
    bundle.config = {{"method", "cpoly"}, {"rank", 8}, {"tau", 0.5}, {"noise", true}, {"none", nullptr}};
    bundle.tasks =
        Json::array({{{"name", "antonym"}, {"instruction", "größer → kleiner"}, {"labels", {"a", "b"}}}});
    bundle.metadata = {{"licence", "Apache-2.0"}, {"steps", -3}};
    const float a[] = {1.0f, -2.5f, 0.0f, 3.25f, 1e-30f, 7.0f};
    bundle.tensors.push_back(float_tensor("model.layers.0.q_proj.lora_a", {2, 3}, a));
    bundle.tensors.push_back(float_tensor("empty", {0, 3}, {}));
    return bundle;
}

Bundle decode(const std::string& bytes) {
    return decode_bundle(Bytes::copy_of(bytes, "test.polyad"));
}

void expect_refused(std::string bytes, Code code, const std::string& mention) {
    try {
        decode(bytes);
        ADD_FAILURE() << "accepted; a refusal naming '" << mention << "' is expected";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), code) << e.what();
        EXPECT_NE(std::string(e.what()).find(mention), std::string::npos) << e.what();
    }
}

std::string replaced(std::string bytes, const std::string& from, const std::string& to) {
    const size_t at = bytes.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return bytes.replace(at, from.size(), to);
}

TEST(Bundle, ComesBackAsItWas) {
    Bundle bundle = sample();
    bundle.extra = {
        {"from_the_future", {{"deep", {1, 2.5, "x", Json::binary({1, 2, 3}), Json::binary({9}, 5)}}}}};
    const std::string bytes = encode_bundle(bundle);
    const Bundle back = decode(bytes);
    EXPECT_EQ(back.backbone, bundle.backbone);
    EXPECT_EQ(back.config, bundle.config);
    EXPECT_EQ(back.tasks, bundle.tasks);
    EXPECT_EQ(back.metadata, bundle.metadata);
    EXPECT_EQ(back.extra, bundle.extra);
    ASSERT_EQ(back.tensors.size(), 2u);
    EXPECT_EQ(back.tensors[0].name, bundle.tensors[0].name);
    EXPECT_EQ(back.tensors[0].shape, bundle.tensors[0].shape);
    EXPECT_EQ(to_float(back.tensors[0]), to_float(bundle.tensors[0]));
    EXPECT_EQ(encode_bundle(back), bytes);  // deterministic, unknown keys included
}

TEST(Bundle, RefusesByNameAndPlace) {
    const std::string bytes = encode_bundle(sample());
    expect_refused("", Code::bad_format, "empty");
    expect_refused("{\"format\": 1}", Code::bad_format, "not a bundle");
    expect_refused(replaced(bytes, "polyad", "nobody"), Code::bad_format, ".format");
    expect_refused(replaced(bytes, std::string("version\x92\x01", 9), std::string("version\x92\x02", 9)),
                   Code::unsupported, "2.0");
    expect_refused(replaced(bytes, "backbone", "backbona"), Code::bad_format, "backbone: is missing");
    expect_refused(bytes + "x", Code::bad_format, "after the document");
    expect_refused(bytes.substr(0, bytes.size() - 3), Code::bad_format, "truncated");
    expect_refused(replaced(bytes, "lora_a",
                            "lora\xff"
                            "a"),
                   Code::bad_format, "UTF-8");
    expect_refused(replaced(bytes, "F32", "F33"), Code::bad_format, "F33");
    expect_refused(replaced(bytes, std::string("\x92\x02\x03", 3), std::string("\x92\x02\x04", 3)),
                   Code::bad_format, "[2, 4]");
    std::string damaged = bytes;
    damaged[bytes.find(std::string("\xc4\x18", 2)) + 5] ^= 1;
    expect_refused(damaged, Code::bad_format, "CRC-32");
    expect_refused(std::string(100000, '\x91'), Code::bad_format, "nested deeper");
    expect_refused(std::string("\xdd\xff\xff\xff\xff\xc0", 6), Code::bad_format, "4294967295");
    expect_refused(std::string("\x82\xa1"
                               "a\x01\xa1"
                               "a\x02",
                               7),
                   Code::bad_format, "second time");
    expect_refused(std::string("\x81\x01\x02", 3), Code::bad_format, "key");
}

TEST(Bundle, RefusesTwoTensorsOfOneName) {
    Bundle bundle = sample();
    bundle.tensors.push_back(bundle.tensors[0]);
    EXPECT_THROW(encode_bundle(bundle), Error);
    bundle.tensors[2].name = "model.layers.0.q_proj.lora_b";
    expect_refused(replaced(encode_bundle(bundle), "lora_b", "lora_a"), Code::bad_format, "twice");
}

TEST(Bundle, ChecksumsArePublicOnes) {
    const std::string_view check = "123456789";
    EXPECT_EQ(crc32(std::as_bytes(std::span(check.data(), check.size()))), 0xCBF43926u);
    const std::string zeros(64, '\0');
    const auto hash = [&](size_t n) { return hash128(std::as_bytes(std::span(zeros.data(), n))).hex(); };
    EXPECT_EQ(hash(32).size(), 32u);
    EXPECT_NE(hash(31), hash(32));  // padding is not data
    EXPECT_NE(hash(0), hash(1));
}

// Another language's msgpack reads the same document; skipped with a reason where Python has no msgpack.
TEST(Bundle, PythonReadsIt) {
    const auto path =
        std::filesystem::temp_directory_path() /
        text("polyad-bundle-test-", ::testing::UnitTest::GetInstance()->random_seed(), ".polyad");
    write_file_atomically(path, encode_bundle(sample()));
    const char* python = std::getenv("POLYAD_TEST_PYTHON");
    const std::string command = text(python ? python : "python3", " '", POLYAD_SOURCE_DIR,
                                     "/tests/faults/read_bundle.py' '", path.string(), "'");
    const int status = std::system(command.c_str());
    std::filesystem::remove(path);
    if (status >> 8 == 77 || status >> 8 == 127)
        GTEST_SKIP() << "no Python with msgpack (POLYAD_TEST_PYTHON names one)";
    EXPECT_EQ(status, 0) << command;
}

}  // namespace
}  // namespace polyad
