// SPDX-License-Identifier: Apache-2.0
#include "evaluation/evaluator.h"

#include "objects.h"
#include "progress.h"

using namespace polyad;
using namespace polyad::capi;

namespace polyad::capi {

struct EvaluatorObject {
    std::shared_ptr<BackboneObject> backbone;
    std::shared_ptr<SkillsetObject> skillset;  ///< null: the backbone alone
    Occupancy use{0};
    ComputeThread compute;
    std::unique_ptr<Evaluator> evaluator;

    EvaluatorObject(std::shared_ptr<BackboneObject> model, std::shared_ptr<SkillsetObject> skills)
        : backbone(std::move(model)),
          skillset(std::move(skills)),
          compute(backbone->context->threads, backbone->context->enter) {}
};

POLYAD_HANDLE(polyad_evaluator, evaluator, EvaluatorObject);

}  // namespace polyad::capi

polyad_status* polyad_evaluator_create(polyad_backbone* backbone, polyad_skillset* skillset,
                                       const polyad_dataset* dataset, const char* config_json,
                                       polyad_evaluator** evaluator) {
    return guarded([&] {
        clear_out(evaluator, "evaluator");
        auto object = std::make_shared<EvaluatorObject>(get(backbone), get_optional(skillset));
        const auto data = get(dataset);
        if (object->skillset && object->skillset->skillset->backbone() != object->backbone->backbone)
            fail(Code::backbone_mismatch, "the skillset belongs to another backbone handle");
        const auto options = EvaluatorOptions::from_json(options_json(config_json, "config"));
        object->compute.run([&] {
            object->evaluator = std::make_unique<Evaluator>(
                object->backbone->backbone, object->skillset ? object->skillset->skillset : nullptr,
                data->dataset, options);
        });
        *evaluator = wrap<polyad_evaluator>(std::move(object));
    });
}

polyad_evaluator* polyad_evaluator_retain(polyad_evaluator* evaluator) {
    return retain(evaluator);
}
void polyad_evaluator_release(polyad_evaluator* evaluator) {
    release(evaluator);
}

polyad_status* polyad_evaluator_step(polyad_evaluator* evaluator, polyad_progress* progress) {
    return guarded([&] {
        const auto object = get(evaluator);
        check_struct(progress, "polyad_progress");
        const Exclusive hold(object->use, "evaluator");
        std::optional<Shared> hold_skills;
        if (object->skillset) hold_skills.emplace(object->skillset->use, "skillset");
        EvaluationProgress p;
        object->compute.run([&] { object->evaluator->step(&p); });
        polyad_progress out = empty_progress();
        out.step = p.done;
        out.total_steps = p.total;
        out.tokens = p.tokens;
        out.tokens_per_second = p.tokens_per_second;
        out.seconds_left = p.seconds_left;
        out.truncated_rows = p.truncated;
        out.done = p.finished;
        write_struct(progress, out, "polyad_progress");
    });
}

void polyad_evaluator_cancel(polyad_evaluator* evaluator) {
    guarded_quietly([&] { get(evaluator)->evaluator->cancel(); });
}

polyad_status* polyad_evaluator_result(const polyad_evaluator* evaluator, polyad_text** json) {
    return guarded([&] {
        clear_out(json, "json");
        const auto object = get(evaluator);
        const Shared hold(object->use, "evaluator");
        *json = make_text(object->evaluator->result());
    });
}

polyad_status* polyad_evaluator_table(const polyad_evaluator* evaluator, polyad_text** table) {
    return guarded([&] {
        clear_out(table, "table");
        const auto object = get(evaluator);
        const Shared hold(object->use, "evaluator");
        *table = make_text(object->evaluator->table());
    });
}
