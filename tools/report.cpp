// SPDX-License-Identifier: Apache-2.0
// One HTML file about one run: styles, script and drawings inside, nothing fetched.
#include <cstdio>

#include "common.h"
#include "report_assets.h"
#include "report_charts.h"
#include "report_sections.h"
#include "run_folder.h"

namespace cli {
namespace {

struct Report {
    Common common;
    std::string run_folder, out, title;

    int run() const;
};

std::string page(const RunData& data, const std::string& title) {
    std::string out =
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/><title>";
    out += escape(title) + " \xC2\xB7 Polyad</title>\n<style>" + report_css + "</style></head>\n<body>";
    out += header_section(data, title) + "\n<main>\n";
    for (const auto section : {training_section, scores_section, routing_section, sources_section,
                               examples_section, configuration_section})
        if (const std::string part = section(data); !part.empty()) out += part + "\n";
    out += "</main>\n<footer>Polyad " + escape(polyad_version_string()) +
           ". This file needs no network.</footer>\n<script>" + std::string(report_js) +
           "</script></body></html>\n";
    return out;
}

int Report::run() const {
    const RunFolder folder(run_folder);
    RunData data{folder.read("config.json"), Json::object(), Json::object(), Json::object()};
    if (folder.has("training.json")) data.training = folder.read("training.json");
    if (folder.has("routing.json")) data.routing = folder.read("routing.json");
    if (folder.has("scores.json")) data.scores = folder.read("scores.json");
    std::string heading = title;
    const std::string file = out.empty() ? folder.file("report.html") : out;
    try {
        if (heading.empty())
            heading = data.config.at("method").at("method").get<std::string>() + " on " +
                      std::to_string(data.config.at("tasks").size()) + " tasks";
        write_whole_file(file, page(data, heading));
    } catch (const Json::exception& e) {
        throw Failure(POLYAD_BAD_FORMAT, std::string("the run's files do not fit together: ") + e.what(),
                      run_folder);
    }
    if (common.json)
        std::printf("%s\n", Json{{"report", file}}.dump().c_str());
    else if (!common.quiet)
        std::printf("%s\n", file.c_str());
    if (!common.quiet && !folder.has("scores.json"))
        std::fprintf(stderr, "no scores yet: polyad eval --run %s --baseline adds them\n",
                     run_folder.c_str());
    return success;
}

}  // namespace

void add_report(CLI::App& app, int& exit) {
    auto report = std::make_shared<Report>();
    CLI::App* sub =
        app.add_subcommand("report", "Write one self-contained HTML file about a run (train --run)");
    sub->add_flag("--json", report->common.json, "Print one JSON document instead of text");
    sub->add_flag("-q,--quiet", report->common.quiet, "Print nothing");
    sub->add_option("run", report->run_folder, "Folder of `polyad train --run`")->required();
    sub->add_option("-o,--out", report->out, "File to write (default: RUN/report.html)");
    sub->add_option("--title", report->title, "Heading (default: the method and its number of tasks)");
    sub->callback([report, &exit] { exit = report->run(); });
}

}  // namespace cli
