// SPDX-License-Identifier: Apache-2.0
#include "data/sampler.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/error.h"

namespace polyad {
namespace {

std::vector<Task> tasks_of(const std::vector<int>& sizes) {
    std::vector<Task> out;
    for (size_t t = 0; t < sizes.size(); ++t) {
        Task task;
        task.name = "task" + std::to_string(t);
        for (int i = 0; i < sizes[t]; ++i)
            task.splits[0].push_back({std::to_string(i), "x", {"a", "b", "c"}});
        out.push_back(std::move(task));
    }
    return out;
}

SamplerOptions options_of(SamplingStrategy strategy, uint64_t seed = 7) {
    SamplerOptions out;
    out.strategy = strategy;
    out.seed = seed;
    return out;
}

TEST(Sampler, ProportionalDrawsEachExampleOncePerEpoch) {
    const auto tasks = tasks_of({5, 0, 20, 3});
    Sampler sampler(tasks, Split::train, options_of(SamplingStrategy::proportional));
    ASSERT_EQ(sampler.epoch_size(), 28);
    std::vector<Draw> first;
    for (int epoch = 0; epoch < 3; ++epoch) {
        std::set<std::pair<int, int>> seen;
        const auto draws = sampler.next(28);
        for (const Draw& draw : draws) seen.insert({draw.task, draw.example});
        EXPECT_EQ(seen.size(), 28u);
        EXPECT_EQ(sampler.epoch(), epoch + 1);
        EXPECT_EQ(sampler.position(), 0);
        if (epoch == 0)
            first = draws;
        else
            EXPECT_NE(draws, first) << "a new epoch has a new order";
    }
}

TEST(Sampler, StrategiesFixEachTasksShare) {
    const auto tasks = tasks_of({10, 40, 0, 250});
    EXPECT_EQ(Sampler(tasks, Split::train, options_of(SamplingStrategy::uniform)).quotas(),
              (std::vector<int64_t>{100, 100, 0, 100}));
    EXPECT_EQ(Sampler(tasks, Split::train, options_of(SamplingStrategy::proportional)).quotas(),
              (std::vector<int64_t>{10, 40, 0, 250}));
    SamplerOptions warm = options_of(SamplingStrategy::temperature);
    warm.temperature = 1;
    EXPECT_EQ(Sampler(tasks, Split::train, warm).quotas(), (std::vector<int64_t>{10, 40, 0, 250}));
    warm.temperature = 1e6;
    EXPECT_EQ(Sampler(tasks, Split::train, warm).quotas(), (std::vector<int64_t>{100, 100, 0, 100}));
    warm.temperature = 2;  // sqrt: 3.162 + 6.325 + 15.811 = 25.298
    EXPECT_EQ(Sampler(tasks, Split::train, warm).quotas(), (std::vector<int64_t>{37, 75, 0, 188}));
    const auto odd = tasks_of({1, 1, 2});
    int64_t sum = 0;
    const Sampler uneven(odd, Split::train, options_of(SamplingStrategy::uniform));
    for (int64_t quota : uneven.quotas()) sum += quota;
    EXPECT_EQ(sum, 4);
}

TEST(Sampler, ATaskRepeatsNothingBeforeItHasShownEverything) {
    const auto tasks = tasks_of({4, 60});
    Sampler sampler(tasks, Split::train, options_of(SamplingStrategy::uniform));
    std::vector<int> small;
    for (const Draw& draw : sampler.next(256))
        if (draw.task == 0) small.push_back(draw.example);
    ASSERT_EQ(small.size(), 128u);
    for (size_t pass = 0; pass < small.size(); pass += 4)
        EXPECT_EQ(std::set<int>(small.begin() + static_cast<long>(pass),
                                small.begin() + static_cast<long>(pass) + 4)
                      .size(),
                  4u);
}

TEST(Sampler, ResumesExactly) {
    const auto tasks = tasks_of({5, 17, 3});
    for (const auto strategy :
         {SamplingStrategy::uniform, SamplingStrategy::proportional, SamplingStrategy::temperature})
        for (const int before : {0, 1, 24, 25, 26, 103}) {
            Sampler whole(tasks, Split::train, options_of(strategy));
            whole.next(before);
            const Json saved = parse_json(whole.state().to_json().dump(), "state");
            const auto expected = whole.next(60);
            Sampler resumed(tasks, Split::train, options_of(strategy));
            resumed.next(11);
            resumed.restore(Sampler::State::from_json(saved));
            EXPECT_EQ(resumed.next(60), expected) << before;
            EXPECT_EQ(resumed.state(), whole.state());
        }
}

TEST(Sampler, SeedDecidesTheOrder) {
    const auto tasks = tasks_of({5, 17, 3});
    Sampler a(tasks, Split::train, options_of(SamplingStrategy::proportional, 1));
    Sampler b(tasks, Split::train, options_of(SamplingStrategy::proportional, 1));
    Sampler c(tasks, Split::train, options_of(SamplingStrategy::proportional, 2));
    const auto draws = a.next(25);
    EXPECT_EQ(draws, b.next(25));
    EXPECT_NE(draws, c.next(25));
}

TEST(Sampler, DrawsAllOutputsAndMixesTasksWithinABatch) {
    const auto tasks = tasks_of({50, 50, 50});
    Sampler sampler(tasks, Split::train, options_of(SamplingStrategy::proportional));
    std::map<int, int> outputs, first_tasks;
    for (const Draw& draw : sampler.next(300)) ++outputs[draw.output];
    EXPECT_EQ(outputs.size(), 3u);
    for (const auto& [output, count] : outputs) EXPECT_GT(count, 60) << output;
    for (const Draw& draw : sampler.next(30)) ++first_tasks[draw.task];
    EXPECT_EQ(first_tasks.size(), 3u);
}

TEST(Sampler, RefusesAForeignPosition) {
    const auto tasks = tasks_of({5, 17}), other = tasks_of({5, 18});
    Sampler a(tasks, Split::train, options_of(SamplingStrategy::proportional));
    Sampler b(other, Split::train, options_of(SamplingStrategy::proportional));
    Sampler c(tasks, Split::train, options_of(SamplingStrategy::uniform));
    EXPECT_THROW(b.restore(a.state()), Error);
    EXPECT_THROW(c.restore(a.state()), Error);
    EXPECT_THROW(Sampler::State::from_json({{"seed", 1}}), Error);
    EXPECT_THROW(Sampler::State::from_json({{"seed", 1}, {"drawn", -1}, {"fingerprint", 2}}), Error);
    EXPECT_THROW(Sampler(tasks, Split::test, options_of(SamplingStrategy::uniform)), Error)
        << "an empty split";
}

TEST(Sampler, ReadsItsOptions) {
    const SamplerOptions got =
        SamplerOptions::from_json({{"strategy", "temperature"}, {"temperature", 4}, {"seed", 3}});
    EXPECT_EQ(got.strategy, SamplingStrategy::temperature);
    EXPECT_EQ(SamplerOptions::from_json(got.to_json()).to_json(), got.to_json());
    EXPECT_THROW(SamplerOptions::from_json({{"strategy", "temp"}}), Error);
    EXPECT_THROW(SamplerOptions::from_json({{"temperature", 0.5}}), Error);
    EXPECT_THROW(SamplerOptions::from_json({{"temprature", 2}}), Error);
}

}  // namespace
}  // namespace polyad
