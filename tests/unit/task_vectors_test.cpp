// SPDX-License-Identifier: Apache-2.0
#include "training/task_vectors.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>

#include "tiny_skillsets.h"
#include "training/trainer.h"

namespace polyad {
namespace {

std::shared_ptr<const Dataset> three_tasks() {
    std::string rows;
    const char* tasks[][3] = {
        {"up", "Say up.", "up"}, {"down", "Say down.", "down"}, {"dog", "Name a pet.", "dog"}};
    for (const auto& [name, instruction, answer] : tasks)
        for (const char* input : {"a", "b", "the quick fox", "the dog", "c"})
            rows += Json({{"task", name},
                          {"instruction", instruction},
                          {"input", input},
                          {"output", answer},
                          {"split", "train"}})
                        .dump() +
                    "\n";
    return tiny::dataset(rows);
}

Json config(const char* kind, const Json& more = Json::object()) {
    Json out = tiny::method("task_moe");
    out["expert_kind"] = "lora";
    out["task_vectors"] = kind;
    out["task_vector_options"] = {{"steps", 4}, {"rank", 2}, {"batch_size", 2}};
    out.update(more);
    return out;
}

const Parameter& vectors(const Skillset& skillset) {
    for (const Parameter& p : skillset.method().parameters())
        if (p.name == "task_vectors") return p;
    fail(Code::not_found, "task_vectors");
}

double off(const at::Tensor& a, const at::Tensor& b) {
    return (a.detach() - b.detach()).abs().max().item<double>();
}

TEST(TaskVectors, TextIsTheMeanStateOfTheTrainingPrompts) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto data = three_tasks();
    const auto skills = create_skillset(tiny::backbone(), data->tasks(), config("text"));
    const at::Tensor got = vectors(*skills).value;
    const int64_t width = tiny::backbone()->info().width;
    ASSERT_EQ(got.sizes(), (std::vector<int64_t>{3, width}));
    EXPECT_FALSE(vectors(*skills).trainable);
    EXPECT_EQ(skills->config().at("task_vec_dim"), width);
    const at::NoGradGuard no_grad;
    for (int t = 0; t < 3; ++t) {
        const Task& task = data->tasks()[static_cast<size_t>(t)];
        at::Tensor sum;
        for (const Example& example : task.examples(Split::train)) {
            Batch one;
            one.tokens = skills->prompts().prompt(task, example.input);
            one.row_begin = {0, one.size()};
            one.prompt_length = {one.size()};
            const at::Tensor mean = tiny::backbone()->hidden(one).mean(0);
            sum = sum.defined() ? sum + mean : mean;
        }
        EXPECT_LT(off(got[t], sum / 5.0), 1e-5);
    }
    EXPECT_GT(off(got[0], got[1]), 1e-3);

    const at::Tensor centred = task_vectors(tiny::backbone(), data->tasks(), "text",
                                            config("text", {{"task_vector_options", {{"centre", true}}}}));
    EXPECT_LT(centred.mean(0).abs().max().item<float>(), 1e-5);
    EXPECT_NEAR(centred.square().mean().item<float>(), 1.0f, 1e-4);
}

TEST(TaskVectors, ATaskThatComesLaterIsReadToo) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto data = three_tasks();
    const std::vector<Task> two(data->tasks().begin(), data->tasks().begin() + 2);
    const auto skills = create_skillset(tiny::backbone(), two, config("text"));
    EXPECT_EQ(add_task(*skills, data->tasks()[2], "fresh", 1), 2);
    const auto all = create_skillset(tiny::backbone(), data->tasks(), config("text"));
    EXPECT_LT(off(vectors(*skills).value, vectors(*all).value), 1e-6);
    // And what was computed comes back from a bundle without being computed.
    const std::string bundle = skills->save_to_memory();
    const auto loaded = Skillset::load(tiny::backbone(), Bytes::copy_of(bundle, "bundle"));
    EXPECT_EQ(tiny::weights(*loaded), tiny::weights(*skills));
}

TEST(TaskVectors, FineTuningMovesTheText) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto data = three_tasks();
    const auto vectors_of = [&](const char* kind) {
        return task_vectors(tiny::backbone(), data->tasks(), kind, config(kind));
    };
    const at::Tensor tuned = vectors_of("finetuned_text");
    EXPECT_EQ(tuned.sizes(), (std::vector<int64_t>{3, tiny::backbone()->info().width}));
    EXPECT_GT(off(tuned, vectors_of("text")), 1e-4);
    EXPECT_TRUE(tuned.equal(vectors_of("finetuned_text")));
}

TEST(TaskVectors, FisherIsReducedToPrincipalComponents) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto data = three_tasks();
    const auto skills = create_skillset(tiny::backbone(), data->tasks(), config("fisher"));
    const at::Tensor got = vectors(*skills).value.detach();
    ASSERT_EQ(got.sizes(), (std::vector<int64_t>{3, 2}));
    EXPECT_LT(got.mean(0).abs().max().item<float>(), 1e-4);
    EXPECT_NEAR(got.square().mean().item<float>(), 1.0f, 1e-4);
    const at::Tensor gram = at::mm(got.t(), got);  // components are orthogonal, the first the larger
    EXPECT_LT(std::abs(gram[0][1].item<float>()), 1e-3);
    EXPECT_GE(gram[0][0].item<float>(), gram[1][1].item<float>());
    EXPECT_REFUSED(create_skillset(tiny::backbone(), data->tasks(), config("fisher", {{"task_vec_dim", 3}})),
                   Code::invalid_config, "at most 2 principal components");
}

TEST(TaskVectors, RefusesWhatItCannotCompute) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto data = three_tasks();
    std::vector<Task> tasks = data->tasks();
    EXPECT_REFUSED(create_skillset(tiny::backbone(), tasks, config("text", {{"task_vec_dim", 5}})),
                   Code::invalid_config, "task_vec_dim says 5");
    EXPECT_REFUSED(
        create_skillset(tiny::backbone(), tasks, config("text", {{"task_vector_options", {{"step", 5}}}})),
        Code::invalid_config, "step");
    Json other = tiny::method("lora");
    other["task_vectors"] = "text";
    EXPECT_REFUSED(create_skillset(tiny::backbone(), tasks, other), Code::invalid_config, "task_vectors");
    tasks[1].splits[0].clear();
    EXPECT_REFUSED(create_skillset(tiny::backbone(), tasks, config("text")), Code::bad_data, tasks[1].name);
}

}  // namespace
}  // namespace polyad
