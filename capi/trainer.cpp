// SPDX-License-Identifier: Apache-2.0
#include "training/trainer.h"

#include "objects.h"
#include "progress.h"

using namespace polyad;
using namespace polyad::capi;

namespace polyad::capi {

struct TrainerObject {
    std::shared_ptr<SkillsetObject> skillset;
    Occupancy use{0};
    ComputeThread compute;
    std::unique_ptr<Trainer> trainer;

    TrainerObject(std::shared_ptr<SkillsetObject> skills, int threads)
        : skillset(std::move(skills)),
          compute(threads > 0 ? threads : skillset->backbone->context->threads,
                  skillset->backbone->context->enter) {}
};

POLYAD_HANDLE(polyad_trainer, trainer, TrainerObject);

}  // namespace polyad::capi

namespace {

polyad_progress to_c(const Progress& p) {
    polyad_progress out = empty_progress();
    out.step = p.step;
    out.total_steps = p.total_steps;
    out.epoch = p.epoch;
    out.loss = p.loss;
    out.learning_rate = p.learning_rate;
    out.gradient_norm = p.gradient_norm;
    out.validation_loss = p.validation_loss;
    out.best_validation_loss = p.best_validation_loss;
    out.tokens = p.tokens;
    out.tokens_per_second = p.tokens_per_second;
    out.seconds_left = p.seconds_left;
    out.truncated_rows = p.truncated_rows;
    out.done = p.done;
    out.stopped_early = p.stopped_early;
    return out;
}

}  // namespace

void polyad_progress_init_sized(polyad_progress* progress, size_t struct_size) {
    init_struct(progress, struct_size, empty_progress());
}

polyad_status* polyad_trainer_create(polyad_skillset* skillset, const polyad_dataset* dataset,
                                     const char* config_json, polyad_trainer** trainer) {
    return guarded([&] {
        clear_out(trainer, "trainer");
        const auto skills = get(skillset);
        const auto data = get(dataset);
        const Json config = options_json(config_json, "config");
        auto object = std::make_shared<TrainerObject>(skills, TrainingConfig::from_json(config).threads);
        const Shared hold(object->skillset->use, "skillset");
        object->compute.run([&] {
            object->trainer = std::make_unique<Trainer>(object->skillset->skillset, data->dataset, config);
        });
        *trainer = wrap<polyad_trainer>(std::move(object));
    });
}

polyad_trainer* polyad_trainer_retain(polyad_trainer* trainer) {
    return retain(trainer);
}
void polyad_trainer_release(polyad_trainer* trainer) {
    release(trainer);
}

polyad_status* polyad_trainer_step(polyad_trainer* trainer, polyad_progress* progress) {
    return guarded([&] {
        const auto object = get(trainer);
        check_struct(progress, "polyad_progress");
        const Exclusive hold(object->use, "trainer"), hold_skills(object->skillset->use, "skillset");
        object->compute.run([&] { object->trainer->step(); });
        write_struct(progress, to_c(object->trainer->progress()), "polyad_progress");
    });
}

void polyad_trainer_cancel(polyad_trainer* trainer) {
    guarded_quietly([&] { get(trainer)->trainer->cancel(); });
}

polyad_status* polyad_trainer_save_checkpoint(polyad_trainer* trainer, const char* path) {
    return guarded([&] {
        const auto object = get(trainer);
        const std::string file = required_string(path, "path");
        const Exclusive hold(object->use, "trainer");
        const Shared hold_skills(object->skillset->use, "skillset");
        object->compute.run([&] { object->trainer->save_checkpoint(file); });
    });
}

polyad_status* polyad_trainer_resume(polyad_trainer* trainer, const char* path) {
    return guarded([&] {
        const auto object = get(trainer);
        const std::string file = required_string(path, "path");
        const Exclusive hold(object->use, "trainer"), hold_skills(object->skillset->use, "skillset");
        object->compute.run([&] { object->trainer->resume(file); });
    });
}

polyad_status* polyad_trainer_report(const polyad_trainer* trainer, polyad_text** json) {
    return guarded([&] {
        clear_out(json, "json");
        const auto object = get(trainer);
        const Shared hold(object->use, "trainer");
        *json = make_text(object->trainer->report());
    });
}
