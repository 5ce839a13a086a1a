// SPDX-License-Identifier: Apache-2.0
// Devices through the public header: what a machine without one says, and, where POLYAD_TEST_DEVICE names
// one, what happens when its memory is used up.
#include <gtest/gtest.h>
#include <polyad/polyad.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace {

using Json = nlohmann::json;

struct Refusal {
    int32_t code = POLYAD_OK;
    std::string message;
};

Refusal taken(polyad_status* status) {
    Refusal out{polyad_status_code(status), polyad_status_message(status)};
    polyad_status_release(status);
    return out;
}

Refusal create(const char* device, uint64_t budget = 0, polyad_context** context = nullptr,
               void* stream = nullptr) {
    polyad_context_options options;
    polyad_context_options_init(&options);
    options.device = device;
    options.memory_budget = budget;
    options.stream = stream;
    polyad_context* made = nullptr;
    const Refusal out = taken(polyad_context_create(&options, &made));
    if (context)
        *context = made;
    else
        polyad_context_release(made);
    return out;
}

#define EXPECT_REFUSED(refusal, want, part)                                  \
    do {                                                                     \
        const Refusal got = refusal;                                         \
        EXPECT_EQ(got.code, want) << got.message;                            \
        EXPECT_NE(got.message.find(part), std::string::npos) << got.message; \
    } while (false)

const char* tested_device() {
    const char* device = std::getenv("POLYAD_TEST_DEVICE");
    return device && *device ? device : nullptr;
}

TEST(Device, ThereIsAlwaysACpu) {
    polyad_text* text = nullptr;
    ASSERT_EQ(taken(polyad_devices(&text)).code, POLYAD_OK);
    const Json devices = Json::parse(polyad_text_data(text));
    polyad_text_release(text);
    EXPECT_EQ(devices.at("devices").at(0).at("name"), "cpu");
    EXPECT_TRUE(devices.at("devices").at(0).at("usable"));
    EXPECT_EQ(devices.at("devices").size() == 1, devices.at("cuda").is_string()) << devices.dump();
    EXPECT_EQ(create("cpu").code, POLYAD_OK);
    EXPECT_EQ(create(nullptr).code, POLYAD_OK);
}

TEST(Device, NamesAreChecked) {
    for (const char* name : {"gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "CUDA", ""})
        EXPECT_REFUSED(create(name), POLYAD_INVALID_CONFIG, "allowed: cpu, cuda, cuda:N");
    EXPECT_REFUSED(create("cpu", 1 << 20), POLYAD_INVALID_ARGUMENT, "memory_budget");
    int stream = 0;
    EXPECT_REFUSED(create("cpu", 0, nullptr, &stream), POLYAD_INVALID_ARGUMENT, "stream is for CUDA devices");
    EXPECT_REFUSED(create("\xff"), POLYAD_INVALID_ARGUMENT, "UTF-8");
}

/// In a process of its own, since one process opens the library that fits once and for good.
#define EXPECT_REFUSED_ELSEWHERE(library, device, want, part)                    \
    do {                                                                         \
        testing::GTEST_FLAG(death_test_style) = "threadsafe";                    \
        EXPECT_EXIT(                                                             \
            {                                                                    \
                setenv("POLYAD_CUDA_LIBRARY", library, 1);                       \
                const Refusal got = create(device);                              \
                std::fprintf(stderr, "%d: %s\n", got.code, got.message.c_str()); \
                std::_Exit(got.code == want ? 0 : 1);                            \
            },                                                                   \
            testing::ExitedWithCode(0), part);                                   \
    } while (false)

TEST(DeviceDeath, ALibraryThatIsNotThereIsNamed) {
    EXPECT_REFUSED_ELSEWHERE("/nowhere/libpolyad_cuda.so", "cuda", POLYAD_UNSUPPORTED,
                             "/nowhere/libpolyad_cuda.so.*POLYAD_CUDA_LIBRARY may name another file");
}

TEST(DeviceDeath, AnotherFileIsNoLibraryOfOurs) {
    EXPECT_REFUSED_ELSEWHERE(FAKE_FOLDER "/libpolyad_fake_cuda_none.so", "cuda", POLYAD_UNSUPPORTED,
                             "does not fit");
}

TEST(DeviceDeath, AnotherVersionIsNamed) {
    EXPECT_REFUSED_ELSEWHERE(FAKE_FOLDER "/libpolyad_fake_cuda_version.so", "cuda", POLYAD_UNSUPPORTED,
                             "version 9.9.9, the core of version");
}

TEST(DeviceDeath, ADriverTooOldIsNamed) {
    EXPECT_REFUSED_ELSEWHERE(FAKE_FOLDER "/libpolyad_fake_cuda_driver.so", "cuda:0", POLYAD_UNSUPPORTED,
                             "CUDA 12.2");
}

TEST(DeviceDeath, AnIndexOutOfRangeIsNamed) {
    EXPECT_REFUSED_ELSEWHERE(FAKE_FOLDER "/libpolyad_fake_cuda_device.so", "cuda:2", POLYAD_INVALID_ARGUMENT,
                             "allowed: cuda:0 to cuda:1");
}

TEST(DeviceDeath, ADeviceTooOldForBf16IsNamed) {
    EXPECT_REFUSED_ELSEWHERE(FAKE_FOLDER "/libpolyad_fake_cuda_old.so", "cuda:1", POLYAD_UNSUPPORTED,
                             "cuda:1' cannot be used: .*compute capability 7.5, at least 8.0 is wanted");
}

TEST(DeviceDeath, UnusableDevicesAreListedWithTheirReason) {
    testing::GTEST_FLAG(death_test_style) = "threadsafe";
    EXPECT_EXIT(
        {
            setenv("POLYAD_CUDA_LIBRARY", FAKE_FOLDER "/libpolyad_fake_cuda_old.so", 1);
            polyad_text* text = nullptr;
            const Refusal listed = taken(polyad_devices(&text));
            std::fprintf(stderr, "%s\n", polyad_text_data(text));
            std::_Exit(listed.code);
        },
        testing::ExitedWithCode(POLYAD_OK), "cuda:1.*reason.*compute capability 7.5.*usable.*false");
}

TEST(DeviceDeath, LibTorchWithoutItsCudaPartIsNamed) {
    if (tested_device()) GTEST_SKIP() << "skipped: this LibTorch has its CUDA part";
    EXPECT_REFUSED_ELSEWHERE(FAKE_FOLDER "/libpolyad_fake_cuda_device.so", "cuda", POLYAD_UNSUPPORTED,
                             "libtorch_cuda.so could not be loaded");
}

// ---- with a device
// -----------------------------------------------------------------------------------------------------

#define WORKS(call)                                    \
    do {                                               \
        const Refusal got = taken(call);               \
        ASSERT_EQ(got.code, POLYAD_OK) << got.message; \
    } while (false)

class OnADevice : public testing::Test {
  protected:
    void SetUp() override {
        if (!tested_device()) GTEST_SKIP() << "skipped: no CUDA device (POLYAD_TEST_DEVICE names none)";
        if (!std::filesystem::exists(model_)) GTEST_SKIP() << "skipped: no fixture at " << model_;
    }

    /// A request's code and, where it worked, its answer.
    Refusal ask(polyad_engine* engine, const char* prompt, std::string* answer = nullptr) {
        polyad_request_options options;
        polyad_request_options_init(&options);
        options.prompt = prompt;
        options.max_tokens = 4;
        polyad_request* request = nullptr;
        Refusal out = taken(polyad_engine_submit(engine, &options, &request));
        if (out.code != POLYAD_OK) return out;
        for (int32_t left = 1; left > 0;) {
            out = taken(polyad_engine_step(engine, &left));
            if (out.code != POLYAD_OK) return out;
        }
        polyad_text* text = nullptr;
        out = taken(polyad_request_poll(request, &text, nullptr));
        if (answer && text) *answer = polyad_text_data(text);
        polyad_text_release(text);
        if (out.code == POLYAD_OK) out = taken(polyad_request_result(request, &text));
        polyad_text_release(text);
        polyad_request_release(request);
        return out;
    }

    static constexpr uint64_t budget = uint64_t{512} << 20;
    const std::string model_ = POLYAD_SHARED_DIR "/fixtures/gguf/tiny_llama.gguf";
};

TEST_F(OnADevice, ServesWhatTheCpuServes) {
    std::string answers[2];
    for (const char* device : {"cpu", tested_device()}) {
        polyad_context* context = nullptr;
        ASSERT_EQ(create(device, std::string(device) == "cpu" ? 0 : budget, &context).code, POLYAD_OK);
        polyad_backbone* model = nullptr;
        WORKS(polyad_backbone_open(context, model_.c_str(), "{\"precision\": \"fp32\"}", &model));
        polyad_engine* engine = nullptr;
        WORKS(polyad_engine_create(model, nullptr, &engine));
        const Refusal asked = ask(engine, "the quick brown fox", &answers[std::string(device) != "cpu"]);
        EXPECT_EQ(asked.code, POLYAD_OK) << asked.message;
        polyad_engine_release(engine);
        polyad_backbone_release(model);
        polyad_context_release(context);
    }
    EXPECT_EQ(answers[0], answers[1]);
    EXPECT_FALSE(answers[0].empty());
}

TEST_F(OnADevice, OutOfMemoryNamesSizesAndTheEngineGoesOn) {
    polyad_context* context = nullptr;
    const Refusal made = create(tested_device(), budget, &context);
    ASSERT_EQ(made.code, POLYAD_OK) << made.message;
    EXPECT_REFUSED(create(tested_device(), budget / 2), POLYAD_WRONG_STATE, "memory_budget");
    polyad_backbone* model = nullptr;
    WORKS(polyad_backbone_open(context, model_.c_str(), "{\"precision\": \"fp32\"}", &model));
    polyad_engine* engine = nullptr;
    WORKS(polyad_engine_create(model, nullptr, &engine));
    std::string before, after;
    EXPECT_EQ(ask(engine, "the dog", &before).code, POLYAD_OK);

    std::string rows;
    for (int i = 0; i < 16384; ++i)
        rows +=
            "{\"task\": \"t\", \"instruction\": \"Say it again and again and once more.\", \"input\": \"the "
            "quick brown "
            "fox jumps over the lazy dog\", \"output\": \"the quick brown fox\", \"split\": \"train\"}\n";
    polyad_dataset* data = nullptr;
    WORKS(polyad_dataset_open_memory(context, rows.data(), rows.size(), nullptr, &data));
    polyad_skillset* skills = nullptr;
    WORKS(polyad_skillset_create(model, data, "{\"method\": \"lora\"}", &skills));
    polyad_trainer* trainer = nullptr;
    WORKS(polyad_trainer_create(
        skills, data, "{\"batch_size\": 16384, \"max_steps\": 1, \"validation_examples\": 0}", &trainer));
    EXPECT_REFUSED(taken(polyad_trainer_step(trainer, nullptr)), POLYAD_OUT_OF_MEMORY, "iB");

    EXPECT_EQ(ask(engine, "the dog", &after).code, POLYAD_OK);
    EXPECT_EQ(before, after);
    polyad_trainer_release(trainer);
    polyad_skillset_release(skills);
    polyad_dataset_release(data);
    polyad_engine_release(engine);
    polyad_backbone_release(model);
    polyad_context_release(context);
}

}  // namespace
