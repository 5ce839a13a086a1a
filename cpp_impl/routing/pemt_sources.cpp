// SPDX-License-Identifier: Apache-2.0
#include "routing/pemt_sources.h"

#include <ATen/ops/stack.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "backbone/backbone.h"
#include "base/error.h"
#include "routing/skillset.h"

namespace polyad {
namespace {

constexpr size_t most_sources = 4096;

std::vector<const char*> table_names(const std::string& expert) {
    if (expert == "lora") return {"lora_a", "lora_b"};
    return {"down_weight", "down_bias", "up_weight", "up_bias"};
}

/// Collects the chosen tasks of one bundle after the other.
class Collector {
  public:
    Collector(const ConfigReader& reader, const MethodContext& context)
        : reader_(reader), context_(context) {}

    void add(const Json& entry, size_t index) {
        std::vector<std::string> wanted;
        std::string path;
        if (entry.is_string()) {
            path = entry.get<std::string>();
        } else {
            ConfigReader one(entry, text("sources[", index, "]"));
            path = one.string("bundle", "");
            wanted = one.strings("tasks", {});
            one.finish();
        }
        where_ = text("sources[", index, "] '", path, "'");
        const std::shared_ptr<Skillset> source = open(path);
        check_form(*source);
        std::vector<int> chosen;
        if (wanted.empty())
            for (size_t t = 0; t < source->tasks().size(); ++t) chosen.push_back(static_cast<int>(t));
        for (const std::string& name : wanted) chosen.push_back(task_of(*source, name));
        for (const int t : chosen) take(*source, t);
    }

    PemtSources finish() {
        if (out_.tasks.empty()) reader_.refuse("sources", "the bundles hold no source task");
        for (const auto& [name, lines] : lines_) out_.values[name] = at::stack(lines);
        return std::move(out_);
    }

  private:
    [[noreturn]] void refuse(const std::string& why) const { reader_.refuse("sources", where_ + ": " + why); }

    std::shared_ptr<Skillset> open(const std::string& path) const {
        if (path.empty()) refuse("needs the path of a bundle");
        // The skillset lives no longer than this call, the backbone outlives it.
        const std::shared_ptr<const Backbone> backbone(std::shared_ptr<void>(), context_.backbone);
        try {
            return Skillset::load(backbone, std::filesystem::path(path));
        } catch (const Error& e) {
            throw Error(e.code(), text(where_, ": ", e.what()), e.detail());
        }
    }

    int task_of(const Skillset& source, const std::string& name) const {
        try {
            return source.task_index(name);
        } catch (const Error& e) {
            throw Error(e.code(), text(where_, ": ", e.what()), e.detail());
        }
    }

    void check_form(const Skillset& source) {
        const Json config = source.method().config();
        const auto method = config.at("method").get<std::string>();
        if (method != "pemt_source")
            refuse(text("was made by method '", method, "', stage 2 needs bundles of 'pemt_source'"));
        const auto expert = config.at("expert").get<std::string>();
        const auto rank = config.at("rank").get<int64_t>();
        const auto alpha = config.at("alpha").get<double>();
        if (out_.tasks.empty()) {
            out_.expert = expert;
            out_.rank = rank;
            out_.alpha = alpha;
        } else if (expert != out_.expert || rank != out_.rank || alpha != out_.alpha) {
            refuse(text("its experts are ", expert, " of rank ", rank, " and alpha ", alpha,
                        ", those before it ", out_.expert, " of rank ", out_.rank, " and alpha ", out_.alpha,
                        "; sources need one form"));
        }
        for (const Site& site : context_.sites)
            if (std::none_of(source.sites().begin(), source.sites().end(),
                             [&](const Site& s) { return s.path == site.path; }))
                refuse(text("its experts do not cover '", site.path,
                            "': set \"target_modules\" to the sites of stage 1"));
    }

    void take(const Skillset& source, int task) {
        const std::string& name = source.tasks()[static_cast<size_t>(task)].name;
        if (!names_.insert(name).second) refuse(text("there is a source '", name, "' already"));
        if (out_.tasks.size() == most_sources) refuse(text("more than ", most_sources, " sources"));
        std::map<std::string, at::Tensor> values;
        for (const Parameter& p : source.method().parameters()) values[p.name] = p.value.detach();
        for (const Site& site : context_.sites)
            for (const char* table : table_names(out_.expert)) {
                const std::string full = site.path + "." + table;
                lines_[full].push_back(values.at(full).select(0, task));
            }
        const at::Tensor prompt = values.at(text("prompt.", task)).clone();
        out_.values[text("prompt.", out_.tasks.size())] = prompt;
        out_.tasks.push_back({name, prompt.size(0)});
    }

    const ConfigReader& reader_;
    const MethodContext& context_;
    std::string where_;
    PemtSources out_;
    std::set<std::string> names_;
    std::map<std::string, std::vector<at::Tensor>> lines_;
};

/// The list write() wrote: names and lengths.
void read_resolved(const Json& list, PemtSources& out) {
    for (size_t i = 0; i < list.size(); ++i) {
        ConfigReader one(list[i], text("sources[", i, "]"));
        SourceTask task{one.string("name", ""), one.integer("prompt_tokens", 0, 1, 4096)};
        one.finish();
        out.tasks.push_back(std::move(task));
    }
}

}  // namespace

void PemtSources::write(Json& config) const {
    config["sources"] = Json::array();
    for (const SourceTask& task : tasks)
        config["sources"].push_back({{"name", task.name}, {"prompt_tokens", task.prompt_tokens}});
    config["source_expert"] = expert;
    config["source_rank"] = rank;
    config["source_alpha"] = alpha;
}

PemtSources read_pemt_sources(const Json& config, ConfigReader& reader, const MethodContext& context) {
    reader.accept("sources");
    const auto given = config.find("sources");
    if (given == config.end() || !given->is_array() || given->empty())
        reader.refuse("sources",
                      "needs a list of the bundles that stage 1 (method \"pemt_source\") made, for example "
                      "[\"sources.polyad\"]");
    if (given->size() > most_sources) reader.refuse("sources", text("more than ", most_sources, " sources"));
    const bool resolved = std::all_of(given->begin(), given->end(), [](const Json& entry) {
        return entry.is_object() && entry.contains("prompt_tokens");
    });
    if (resolved) {
        PemtSources out;
        out.expert = reader.choice("source_expert", "lora", {"lora", "bottleneck"});
        out.rank = reader.integer("source_rank", 64, 1, 4096);
        out.alpha = reader.number("source_alpha", static_cast<double>(out.rank), 1e-6, 1e6);
        if (context.fill == Fill::initialised)
            reader.refuse("sources",
                          "this is a saved configuration; experts to begin with lie in the bundles of "
                          "stage 1: name those");
        read_resolved(*given, out);
        return out;
    }
    // A bundle that names files would make its reader open them.
    if (context.fill != Fill::initialised)
        reader.refuse("sources", "a saved configuration holds names and lengths of its sources");
    if (!context.backbone) reader.refuse("sources", "bundles can be read only with the backbone at hand");
    Collector collector(reader, context);
    for (size_t i = 0; i < given->size(); ++i) collector.add((*given)[i], i);
    return collector.finish();
}

void expect_feed_forward_sites(const std::vector<Site>& sites, const ConfigReader& reader) {
    std::set<int> layers;
    for (const Site& site : sites) {
        if (site.role != Role::feed_forward_out)
            reader.refuse("target_modules",
                          text("PEMT adapts the output projections of feed-forwards, which '", site.path,
                               "' is not; leave the key out for all of them"));
        if (!layers.insert(site.layer).second)
            reader.refuse("target_modules", text("layer ", site.layer, " has two of them"));
    }
    if (sites.empty()) reader.refuse("target_modules", "the backbone has no feed-forward to adapt");
}

int64_t prompt_width(const MethodContext& context) {
    if (context.backbone) return context.backbone->info().width;
    for (const Site& site : context.sites)
        if (site.stream == Stream::source) return site.d_out;
    return context.sites.front().d_out;
}

}  // namespace polyad
