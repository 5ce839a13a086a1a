// SPDX-License-Identifier: Apache-2.0
#include "routing/derive.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "io/bundle.h"
#include "routing/route_table.h"
#include "routing/task_moe.h"

namespace polyad {
namespace {

std::map<std::string, Parameter*> by_name(const Skillset& skillset) {
    std::map<std::string, Parameter*> out;
    for (Parameter& p : skillset.method().parameters()) out[p.name] = &p;
    return out;
}

void copy_into(Parameter& to, const at::Tensor& from) {
    const at::NoGradGuard no_grad;
    POLYAD_CHECK(to.value.sizes() == from.sizes());
    to.value.copy_(from);
}

const Parameter* vectors_of(const Skillset& skillset) {
    for (const Parameter& p : skillset.method().parameters())
        if (p.name == "task_vectors") return &p;
    return nullptr;
}

/// Keys of a configuration that belong to the skillset, not to the method.
Json common_config(const Skillset& skillset) {
    const Json config = skillset.config();
    Json out = Json::object();
    for (const char* key : {"target_modules", "seed", "prompt"}) out[key] = config.at(key);
    return out;
}

/// One LoRA pair per site, all of the largest rank (zeros fill the rest), as a skillset of one task.
std::shared_ptr<Skillset> as_lora(const Skillset& learned, int task,
                                  const std::vector<CollapsedSite>& pairs) {
    int64_t rank = 1;
    for (const CollapsedSite& pair : pairs) rank = std::max(rank, pair.a.size(0));
    Json config = common_config(learned);
    config["method"] = "lora";
    config["rank"] = rank;
    config["alpha"] = static_cast<double>(rank);  // a factor of 1: the pairs bring theirs
    auto out =
        Skillset::create(learned.backbone(), {learned.tasks()[static_cast<size_t>(task)].to_task()}, config);
    const auto parameters = by_name(*out);
    for (size_t i = 0; i < pairs.size(); ++i) {
        const std::string& path = learned.sites()[i].path;
        const auto& [a, b] = pairs[i];
        const int64_t missing = rank - a.size(0);
        // Filled with zeros on the side of b only, so that further training can use the rank.
        Parameter& down = *parameters.at(path + ".lora_a");
        copy_into(down, at::cat({a, down.value.detach().narrow(0, a.size(0), missing)}, 0));
        copy_into(*parameters.at(path + ".lora_b"),
                  at::cat({b, at::zeros({b.size(0), missing}, b.options())}, 1));
    }
    out->method().parameters_changed();
    return out;
}

/// The expert every layer keeps for `task`, by transformer layer.
std::map<int, int64_t> chosen(const Skillset& learned, const TaskMoe& method, int task) {
    const RouteTable table =
        route_table(learned.method(), learned.sites(), static_cast<int>(learned.tasks().size()));
    at::Tensor scores =
        (table.logits.defined() ? table.logits : table.weights)[task].clone().view({-1, table.skills});
    std::map<int, int64_t> out;
    for (size_t l = 0; l < table.layers.size(); ++l) {
        at::Tensor row = scores[static_cast<int64_t>(l)];
        for (const auto& [layer, expert] : method.options().disabled)
            if (layer == table.layers[l]) row[expert] = -INFINITY;
        out[table.layers[l]] = at::argmax(row).item<int64_t>();
    }
    return out;
}

std::shared_ptr<Skillset> squeeze(const Skillset& learned, int task) {
    const at::NoGradGuard no_grad;
    const auto* moe = dynamic_cast<const TaskMoe*>(&learned.method());
    std::vector<CollapsedSite> pairs;
    if (!moe) {
        for (const Site& site : learned.sites()) {
            const auto pair = learned.method().collapse(site, task);
            if (!pair)
                fail(Code::unsupported, "squeeze: this method's mixture does not follow from the task alone");
            pairs.push_back(*pair);
        }
        return as_lora(learned, task, pairs);
    }
    const std::map<int, int64_t> experts = chosen(learned, *moe, task);
    const auto from = by_name(learned);
    if (!moe->options().layer_copies) {
        for (const Site& site : learned.sites()) {
            const int64_t e = experts.at(site.layer);
            pairs.push_back({from.at(site.path + ".lora_a")->value.detach()[e],
                             from.at(site.path + ".lora_b")->value.detach()[e] * moe->options().scale()});
        }
        return as_lora(learned, task, pairs);
    }
    Json config = common_config(learned);
    config["method"] = "task_moe";
    config["expert_kind"] = "layer";
    config["n_experts"] = 1;
    config["routing"] = "average";
    config["expert_memory_gib"] = moe->options().memory_gib;
    config["vanilla_layers"] = moe->options().vanilla_layers;
    auto out =
        Skillset::create(learned.backbone(), {learned.tasks()[static_cast<size_t>(task)].to_task()}, config);
    std::map<size_t, int64_t> expert_of_table;
    for (const auto& [layer, expert] : experts)
        expert_of_table[static_cast<size_t>(moe->table_of_layer(layer))] = expert;
    for (auto& [name, p] : by_name(*out)) {
        const std::string path = name.substr(0, name.rfind(".expert_"));
        const TaskMoe::Copied* copied = moe->copied(path);
        POLYAD_CHECK(copied != nullptr);
        const auto e = static_cast<size_t>(expert_of_table.at(copied->table));
        copy_into(*p, learned.method().parameters()[copied->experts[e]].value.detach());
    }
    out->method().parameters_changed();
    return out;
}

}  // namespace

std::shared_ptr<Skillset> start_from(const Skillset& learned, const Json& changes,
                                     const std::vector<ParameterGroup>& groups,
                                     const std::vector<int>& tasks) {
    std::vector<int> kept = tasks;
    if (kept.empty())
        for (size_t t = 0; t < learned.tasks().size(); ++t) kept.push_back(static_cast<int>(t));
    std::vector<Task> entries;
    for (const int task : kept) entries.push_back(learned.tasks().at(static_cast<size_t>(task)).to_task());
    Json config = learned.config();
    for (const auto& [key, value] : changes.items())
        if (value.is_null())
            config.erase(key);
        else
            config[key] = value;
    at::Tensor vectors;
    if (const Parameter* known = vectors_of(learned)) {
        std::vector<at::Tensor> rows;
        for (const int task : kept) rows.push_back(known->value.detach().narrow(0, task, 1));
        vectors = at::cat(rows, 0);
    }
    auto out = Skillset::create(learned.backbone(), entries, config, vectors);
    const auto from = by_name(learned);
    for (Parameter& p : out->method().parameters()) {
        const auto found = from.find(p.name);
        if (found == from.end() || std::find(groups.begin(), groups.end(), p.group) == groups.end()) continue;
        if (found->second->value.sizes() == p.value.sizes()) copy_into(p, found->second->value.detach());
    }
    out->method().parameters_changed();
    return out;
}

std::shared_ptr<Skillset> second_stage(const Skillset& learned, const Json& changes) {
    const auto* moe = dynamic_cast<const TaskMoe*>(&learned.method());
    if (!moe || !moe->options().learned())
        fail(Code::unsupported,
             "a second stage keeps a router over task vectors, and this skillset has none");
    Json over = {{"select", "softmax"}, {"eval_route", "softmax"}, {"tau", 300.0},
                 {"tau_rate", 1e-4},    {"tau_min", 1.0},          {"train", "experts"},
                 {"exploration", 0.0},  {"alternate_every", 0}};
    over.update(changes);
    return start_from(learned, over, {ParameterGroup::router, ParameterGroup::task_vectors});
}

std::shared_ptr<Skillset> for_few_shot(const Skillset& learned, int task, const std::string& how) {
    if (task < 0 || task >= static_cast<int>(learned.tasks().size()))
        fail(Code::unknown_task, "unknown_task: task id ", task, ", the skillset has ",
             learned.tasks().size(), " tasks");
    if (how == "squeeze") return squeeze(learned, task);
    if (how != "keep_moe_route" && how != "avg")
        fail(Code::invalid_config, "adapt: '", how, "' is not known, allowed: squeeze, keep_moe_route, avg");
    const auto* moe = dynamic_cast<const TaskMoe*>(&learned.method());
    if (!moe) fail(Code::unsupported, "adapt: '", how, "' is for experts routed by task vectors");
    using G = ParameterGroup;
    if (how == "keep_moe_route")
        return start_from(learned, {{"train", "experts"}},
                          {G::skills, G::router, G::task_vectors, G::scalars});
    // Experts keep their places; what belongs to a router goes.
    Json changes = {{"routing", "average"}, {"train", "all"}};
    for (const char* key :
         {"router", "router_hidden", "router_dropout", "task_vectors", "task_vec_dim", "train_task_vectors",
          "task_vector_options", "select", "eval_route", "tau", "tau_rate", "tau_min", "exploration",
          "exploration_route", "alternate_every", "random_experts"})
        changes[key] = nullptr;
    return start_from(learned, changes, {G::skills});
}

std::shared_ptr<Skillset> reconfigured(const Skillset& learned, const Json& changes) {
    Bundle bundle = decode_bundle(Bytes::copy_of(learned.save_to_memory(), "the skillset"));
    for (const auto& [key, value] : changes.items())
        if (value.is_null())
            bundle.config.erase(key);
        else
            bundle.config[key] = value;
    try {
        return Skillset::load(learned.backbone(), Bytes::copy_of(encode_bundle(bundle), "changes"));
    } catch (const Error& e) {
        // Its reader finds what does not fit, but no file is damaged here.
        if (e.code() != Code::bad_format) throw;
        throw Error(Code::invalid_config, text("changes: ", e.what()), e.detail());
    }
}

std::shared_ptr<Skillset> derive(const Skillset& learned, const Json& options) {
    ConfigReader reader(options, "derive");
    const std::string form =
        reader.choice("form", "copy", {"copy", "second_stage", "squeeze", "keep_moe_route", "avg"});
    const std::string task = reader.string("task", "");
    const Json changes = reader.object("changes");
    reader.finish();
    if (form == "squeeze" && task.empty()) reader.refuse("task", "squeeze keeps one task: name it");
    if (form != "squeeze" && !task.empty()) reader.refuse("task", "only squeeze keeps one task alone");
    const bool changeable = form == "copy" || form == "second_stage";
    if (!changeable && !changes.empty()) reader.refuse("changes", "only copy and second_stage take them");
    if (form == "copy") return reconfigured(learned, changes);
    if (form == "second_stage") return second_stage(learned, changes);
    return for_few_shot(learned, task.empty() ? 0 : learned.task_index(task), form);
}

}  // namespace polyad
