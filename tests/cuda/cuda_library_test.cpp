// SPDX-License-Identifier: Apache-2.0
// What can be said of the CUDA library without a device: it loads, refuses another core by name, says what is
// missing; and the code that host and device share.
#include "kernels/cuda/low_rank_plan.h"
#include "kernels/cuda/quant_blocks.h"
#include "tests/cuda/device.h"

namespace polyad::kernels {
namespace {

TEST(CudaLibrary, RefusesACoreOfAnotherVersion) {
    std::string why;
    EXPECT_EQ(load_library("99.1.0", why), nullptr);
    EXPECT_NE(why.find("99.1.0"), std::string::npos) << why;
    EXPECT_NE(why.find(POLYAD_VERSION), std::string::npos) << why;
}

TEST(CudaLibrary, LoadsWithoutADriverAndSaysSo) {
    std::string why;
    const CudaLibrary* library = load_library(POLYAD_VERSION, why);
    ASSERT_NE(library, nullptr) << why;
    char text[512] = "";
    const int count = library->device_count(text, sizeof text);
    CudaDevice device;
    if (count == 0) {
        EXPECT_TRUE(std::strstr(text, "driver") || std::strstr(text, "device")) << text;
        char again[512] = "";
        EXPECT_EQ(library->device_info(0, &device, again, sizeof again), -1);
        EXPECT_STREQ(again, text);
        char little[8];
        EXPECT_EQ(library->device_count(little, sizeof little), 0);
        EXPECT_EQ(std::strlen(little), 7u);
        // An operator leaves an error, nothing else happens.
        float x = 1;
        library->ops->add(Float::f32, &x, &x, 1);
        EXPECT_NE(library->take_error(), nullptr);
        EXPECT_EQ(library->take_error(), nullptr);
        EXPECT_EQ(x, 1);
        EXPECT_EQ(library->allocate(4), nullptr);
        EXPECT_NE(library->take_error(), nullptr);
        return;
    }
    EXPECT_EQ(library->device_info(0, &device, text, sizeof text), 0) << text;
    EXPECT_GE(device.major, 8);
    EXPECT_EQ(library->device_info(count, &device, text, sizeof text), -1);
    EXPECT_TRUE(std::strstr(text, "does not exist")) << text;
}

TEST(CudaSharedCode, BlocksExpandAsOnTheCpu) {
    std::mt19937_64 random(5);
    for (const int number : {0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20, 23, 30}) {
        const auto quant = static_cast<Quant>(number);
        const BlockSize shape = cuda::block_shape(quant);
        ASSERT_GT(shape.bytes, 0);
        const int blocks = 200;
        std::vector<uint8_t> data(static_cast<size_t>(blocks * shape.bytes));
        for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
        std::vector<float> wanted(static_cast<size_t>(blocks * shape.elements)), got(wanted.size());
        ops_for("portable")
            ->dequantise(quant, data.data(), wanted.data(), static_cast<int64_t>(wanted.size()));
        for (int b = 0; b < blocks; ++b)
            for (int j = 0; j < shape.elements / 8; ++j)
                cuda::expand_eight(quant, data.data() + b * shape.bytes, j,
                                   got.data() + b * shape.elements + 8 * j);
        for (size_t i = 0; i < got.size(); ++i) {
            const bool same =
                std::isnan(wanted[i]) ? std::isnan(got[i]) : std::memcmp(&got[i], &wanted[i], 4) == 0;
            ASSERT_TRUE(same) << "format " << number << " [" << i << "]: " << got[i] << ", expected "
                              << wanted[i];
        }
    }
    EXPECT_EQ(cuda::block_shape(static_cast<Quant>(99)).bytes, 0);
}

TEST(CudaSharedCode, PlansCoverEveryTokenOnce) {
    const std::vector<int32_t> begin{0, 70, 70, 100, 101, 300}, group{1, 0, 1, -1, 0};
    const Rows rows{begin.data(), 5};
    const std::vector<cuda::Segment> segments = cuda::segments_of(group.data(), rows);
    ASSERT_EQ(segments.size(), 3u);  // rows 0 and 2 run on across the empty row
    EXPECT_EQ(segments[0].end, 100);
    int32_t next = 0;
    for (const cuda::Segment& tile : cuda::tiles_of(segments, 64)) {
        EXPECT_EQ(tile.begin, next);
        EXPECT_LE(tile.end - tile.begin, 64);
        next = tile.end;
    }
    EXPECT_EQ(next, 300);
    const cuda::GradientPlan plan = cuda::gradient_plan(segments, 128);
    EXPECT_TRUE(plan.split());
    ASSERT_EQ(plan.groups.size(), 2u);
    EXPECT_EQ(plan.groups[0].group, 0);
    EXPECT_EQ(plan.groups[1].group, 1);
    int32_t tokens = 0;
    for (const cuda::GroupItems& g : plan.groups)
        for (int32_t i = g.first; i < g.last; ++i) {
            EXPECT_EQ(plan.items[static_cast<size_t>(i)].group, g.group);
            tokens += plan.items[static_cast<size_t>(i)].end - plan.items[static_cast<size_t>(i)].begin;
        }
    EXPECT_EQ(tokens, 299);
    EXPECT_TRUE(cuda::gradient_plan(cuda::segments_of(group.data(), {begin.data(), 0}), 128).items.empty());
}

}  // namespace
}  // namespace polyad::kernels
