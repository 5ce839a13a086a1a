// SPDX-License-Identifier: Apache-2.0
// Trains skills for every task of a folder, saves one bundle, loads it again and answers one prompt.
//
//     train_and_switch_cpp MODEL.gguf TASKS_FOLDER BUNDLE.polyad TASK PROMPT
#include <cstdio>
#include <polyad/polyad.hpp>

int main(int argc, char** argv) try {
    if (argc != 6) {
        std::fprintf(stderr, "usage: %s MODEL.gguf TASKS_FOLDER BUNDLE.polyad TASK PROMPT\n", argv[0]);
        return 2;
    }
    polyad::Context context;
    polyad::Backbone model(context, argv[1]);
    polyad::Dataset tasks(context, argv[2]);
    {
        polyad::Skillset skills(model, tasks, R"({"method": "cpoly", "rank": 4, "common_skills": 3})");
        polyad::Trainer trainer(skills, tasks,
                                R"({"max_steps": 20, "batch_size": 8, "learning_rate": 2e-3})");
        polyad_progress p;
        do {
            p = trainer.step();
            std::printf("step %lld/%lld  loss %.3f\n", static_cast<long long>(p.step),
                        static_cast<long long>(p.total_steps), p.loss);
        } while (!p.done);
        skills.save(argv[3]);
    }
    polyad::Engine engine(model);
    engine.publish("words", polyad::Skillset::load(model, argv[3]));
    polyad::Request request = engine.submit("words", argv[4], argv[5]);
    while (!request.finished()) {
        engine.step();
        std::printf("%s", request.poll().c_str());
        std::fflush(stdout);
    }
    std::printf("\n");
    return 0;
} catch (const polyad::Error& e) {
    std::fprintf(stderr, "%s: %s\n", polyad_code_name(e.code()), e.what());
    return 1;
}
