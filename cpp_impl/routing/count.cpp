// SPDX-License-Identifier: Apache-2.0
#include "routing/count.h"

#include "base/error.h"

namespace polyad {
namespace {

constexpr int64_t largest = int64_t{1} << 40;

int64_t pemt_stage1(ConfigReader& o) {
    const auto get = [&](const char* key) { return o.integer(key, 0, 0, 1 << 20); };
    return get("n_layers") * get("r") * (get("d_ff") + get("d_model")) + get("prompt_len") * get("d_model");
}

int64_t pemt_stage2(ConfigReader& o) {
    const auto get = [&](const char* key) { return o.integer(key, 0, 0, 1 << 20); };
    const int64_t d = get("d_model"), k = get("adapter_dim"), m = get("n_sources");
    const int64_t encoder = get("encoder_layers"), decoder = get("decoder_layers");
    return (encoder + decoder) * (2 * d * k + k + d)            // target adapters
           + encoder * get("d_ff") * m + decoder * d * m        // gates
           + get("prompt_len") * d + get("n_layer_norms") * d;  // prompt and norms
}

int64_t task_moe_router(ConfigReader& o) {
    o.accept("modules");
    o.accept("r");
    const auto get = [&](const char* key) { return o.integer(key, 0, 0, 1 << 20); };
    const int64_t te = get("task_vec_dim"), h = get("router_hidden"), e = get("n_experts"),
                  tasks = get("n_tasks");
    const bool vectors = o.boolean("train_task_vectors", false);
    return get("n_layers") * (h * te + h + h * e + e) + (vectors ? tasks * te : 0);
}

/// LoRA experts: "modules" = list of [d_in, d_out, count]; and the router.
int64_t task_moe_lora(ConfigReader& o, const Json& options) {
    int64_t count = task_moe_router(o);
    const int64_t each = o.integer("n_experts", 0, 0, 1 << 20) * o.integer("r", 0, 0, 1 << 20);
    for (const Json& module : options.value("modules", Json::array())) {
        if (!module.is_array() || module.size() != 3)
            o.refuse("modules", "needs lists of [d_in, d_out, count]");
        for (const Json& n : module)
            if (!n.is_number_integer() || n.get<int64_t>() < 0 || n.get<int64_t>() > 1 << 20)
                o.refuse("modules", "needs sizes of 0 to 1048576");
        count += module[2].get<int64_t>() * each * (module[0].get<int64_t>() + module[1].get<int64_t>());
    }
    return count;
}

}  // namespace

int64_t parameter_count(const Json& config, const std::vector<Site>& sites, int tasks) {
    MethodContext context;
    context.sites = sites;
    context.tasks = tasks;
    context.fill = Fill::shapes_only;
    const auto method = make_method(config, context);
    int64_t count = 0;
    for (const Parameter& p : method->parameters()) {
        if (!p.trainable) continue;
        count += p.value.numel();
        if (count > largest) fail(Code::invalid_config, "more than ", largest, " parameters");
    }
    return count;
}

int64_t recipe_parameter_count(const std::string& recipe, const Json& options) {
    ConfigReader reader(options, recipe);
    int64_t count = 0;
    if (recipe == "pemt_stage1")
        count = pemt_stage1(reader);
    else if (recipe == "pemt_stage2")
        count = pemt_stage2(reader);
    else if (recipe == "task_moe_router")
        count = task_moe_router(reader);
    else if (recipe == "task_moe_lora")
        count = task_moe_lora(reader, options);
    else
        fail(Code::invalid_config, "recipe '", recipe,
             "' is not known, allowed: pemt_stage1, pemt_stage2, task_moe_router, task_moe_lora");
    reader.finish();
    return count;
}

}  // namespace polyad
