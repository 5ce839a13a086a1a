// SPDX-License-Identifier: Apache-2.0
#include "backbone/buffer_pool.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <thread>
#include <vector>

#include "backbone/frozen_gemm.h"
#include "base/random.h"

namespace polyad {
namespace {

const at::TensorOptions floats = at::TensorOptions().dtype(at::kFloat);

TEST(BufferPool, BuffersGoRound) {
    release_idle_buffers();
    const int64_t live = buffer_use().live_bytes;
    {
        const at::Tensor first = new_buffer({1000, 300}, floats), second = new_buffer({70, 3, 512}, floats);
        EXPECT_TRUE(first.is_contiguous());
        EXPECT_EQ(first.sizes(), at::IntArrayRef({1000, 300}));
        EXPECT_GE(buffer_use().live_bytes - live, 4 * (1000 * 300 + 70 * 3 * 512));
        EXPECT_NE(first.data_ptr(), second.data_ptr());
    }
    EXPECT_EQ(buffer_use().live_bytes, live);
    const int64_t taken = buffer_use().taken_from_system;
    for (int i = 0; i < 20; ++i) {
        const at::Tensor first = new_buffer({990 + i % 7, 300}, floats),
                         second = new_zeros({70, 3, 512}, floats);
        EXPECT_EQ(second.abs().sum().item<float>(), 0.0f);
    }
    EXPECT_EQ(buffer_use().taken_from_system, taken);
    release_idle_buffers();
    EXPECT_EQ(buffer_use().idle_bytes, 0);
}

TEST(BufferPool, HoldsLittleMoreThanWasInUseAtOnce) {
    release_idle_buffers();
    const int64_t live = buffer_use().live_bytes;
    int64_t most = 0;
    Generator random(3);
    for (int i = 0; i < 200; ++i) {  // lengths that hardly ever come back
        std::vector<at::Tensor> all;
        for (int j = 0; j < 4; ++j) all.push_back(new_buffer({200 + random.next_u32() % 900, 256}, floats));
        most = std::max(most, buffer_use().live_bytes);
        all.clear();
        EXPECT_LE(buffer_use().live_bytes + buffer_use().idle_bytes, most + most / 8);
    }
    EXPECT_EQ(buffer_use().live_bytes, live);
}

/// Pages of this process in memory, in bytes.
int64_t resident() {
    std::ifstream file("/proc/self/statm");
    int64_t all = 0, in_memory = 0;
    file >> all >> in_memory;
    return in_memory * 4096;
}

TEST(LastingMemory, LiesSideBySideAndGoesBackToTheSystem) {
    constexpr int64_t mib = 1 << 20;
    const int64_t before = resident();
    for (int round = 0; round < 3; ++round) {
        std::vector<at::Tensor> all;
        for (int i = 0; i < 16; ++i) all.push_back(new_lasting({4 * mib / 4}, floats).fill_(1.0));
        EXPECT_GT(resident() - before, 60 * mib);
        for (size_t i = 1; i < all.size(); ++i)
            EXPECT_EQ(std::abs(all[i].data_ptr<float>() - all[i - 1].data_ptr<float>()), mib) << i;
        const at::Tensor kept = all[7];
        all.clear();
        EXPECT_LT(resident() - before, 12 * mib) << "one of 4 MiB is left, and what is beside it on its page";
        EXPECT_EQ(kept.min().item<float>(), 1.0f);
    }
    const at::Tensor small = new_lasting({3, 5}, floats);
    EXPECT_EQ(small.sizes(), at::IntArrayRef({3, 5}));
}

TEST(BufferPool, ManyThreads) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([t] {
            for (int i = 0; i < 300; ++i) {
                at::Tensor mine = new_buffer({100 + t, 200 + i % 5 * 40}, floats);
                mine.fill_(static_cast<float>(t));
                EXPECT_EQ(mine.min().item<float>(), static_cast<float>(t));
            }
        });
    for (std::thread& thread : threads) thread.join();
}

TEST(FrozenGemm, RoomChangesNothing) {
    Generator random(5);
    const auto noise = [&](int64_t rows, int64_t columns, bool room) {
        at::Tensor t = room ? new_buffer({rows, columns}, floats) : at::zeros({rows, columns}, floats);
        random.fill_normal(t.mutable_data_ptr<float>(), static_cast<size_t>(t.numel()), 0.0, 1.0);
        return t;
    };
    for (const int64_t rows : {1, 16, 17, 40, 300, 817, 1025}) {
        EXPECT_GE(padded_rows(rows), rows);
        const at::Tensor m = noise(96, 64, false), x = noise(rows, 96, false);
        at::Tensor roomy = new_buffer({rows, 96}, floats);
        roomy.copy_(x);
        const at::Tensor wanted = at::mm(x, m);
        at::Tensor plain = at::zeros({rows, 64}, floats), in_place = new_buffer({rows, 64}, floats);
        multiply_rows(plain, x, m, Way::backward, false);
        multiply_rows(in_place, roomy, m, Way::backward, false, true);
        EXPECT_TRUE(plain.allclose(wanted, 1e-4, 1e-4)) << rows;
        EXPECT_TRUE(in_place.allclose(wanted, 1e-4, 1e-4)) << rows;
        multiply_rows(in_place, roomy, m, Way::backward, true, true);
        EXPECT_TRUE(in_place.allclose(2 * wanted, 1e-4, 1e-4)) << rows;
        multiply_rows(in_place, x, m, Way::backward, false, true);  // x without room
        EXPECT_TRUE(in_place.allclose(wanted, 1e-4, 1e-4)) << rows;
    }
}

/// What lies behind the last row, NaN here, reaches no row: neither where rows end within a tile of oneDNN's
/// AMX kernels (56, 72 columns) nor where they fill it.
TEST(FrozenGemm, NothingComesFromBehindTheLastRow) {
    const at::TensorOptions halves = floats.dtype(at::kBFloat16);
    const auto ones = [&](int64_t rows, int64_t columns) {
        const double nan = std::numeric_limits<double>::quiet_NaN();
        return at::full({padded_rows(rows) + 32, columns}, nan, halves).narrow(0, 0, rows).fill_(1.0);
    };
    for (const int64_t columns : {32, 40, 56, 64, 72, 305})
        for (const int64_t rows : {3, 16, 19, 32, 33, 64, 82, 256, 300}) {
            const at::Tensor m = at::ones({columns, 64}, halves), x = ones(rows, columns);
            at::Tensor out = ones(rows, 64);
            multiply_rows(out, x, m, Way::backward, false, true);
            const at::Tensor wanted = at::full({rows, 64}, static_cast<double>(columns), halves);
            EXPECT_TRUE(out.equal(wanted)) << rows << " rows of " << columns;
            multiply_rows(out, x, m, Way::backward, true, true);
            EXPECT_TRUE(out.equal(wanted * 2)) << rows << " rows of " << columns;
        }
}

}  // namespace
}  // namespace polyad
