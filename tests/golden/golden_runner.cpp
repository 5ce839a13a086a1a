// SPDX-License-Identifier: Apache-2.0
// golden_runner DIR [--methods a,b] [--device cpu|cuda[:N]]: runs every case of a folder of golden vectors
// and its metrics.json through the product's own classes. One line per case, a closing count, exit code 0
// only when all that was asked for passed.
#include <algorithm>
#include <cstdio>
#include <sstream>

#include "device/test_device.h"
#include "golden/case.h"

using namespace polyad::golden;

namespace {

std::vector<std::string> split(const std::string& list) {
    std::vector<std::string> out;
    std::istringstream in(list);
    for (std::string item; std::getline(in, item, ',');)
        if (!item.empty()) out.push_back(item);
    return out;
}

std::string run_file(const std::filesystem::path& file, const std::vector<std::string>& methods,
                     bool& selected) {
    const Case c = read_case(file);
    selected = methods.empty() || std::find(methods.begin(), methods.end(), c.method) != methods.end();
    if (!selected) return {};
    if (c.name != file.stem().string()) return "the case calls itself '" + c.name + "'";
    if (c.method == "intuition") return run_intuition_case(c);
    if (!knows_method(c.method)) return "method '" + c.method + "' is not known";
    return run_method_case(c);
}

}  // namespace

int main(int argc, char** argv) {
    std::filesystem::path folder;
    std::vector<std::string> methods;
    std::string device = "cpu";
    bool usage = false;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        if (argument == "--methods" && i + 1 < argc)
            methods = split(argv[++i]);
        else if (argument == "--device" && i + 1 < argc)
            device = argv[++i];
        else if (folder.empty() && argument.rfind("--", 0) != 0)
            folder = argument;
        else
            usage = true;
    }
    if (usage || folder.empty() || !std::filesystem::is_directory(folder)) {
        std::fprintf(stderr,
                     "usage: golden_runner DIR [--methods a,b] [--device cpu|cuda[:N]]\nDIR holds "
                     "*.safetensors cases and metrics.json\n");
        return 2;
    }

    try {
        set_device(polyad::test_device(device));
    } catch (const std::exception& e) {
        std::fprintf(stderr, "golden_runner: %s\n", e.what());
        return 2;
    }

    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(folder))
        if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
    std::sort(files.begin(), files.end());

    Count count;
    for (const auto& file : files) {
        bool selected = true;
        std::string problem;
        try {
            problem = run_file(file, methods, selected);
        } catch (const std::exception& e) {
            problem = e.what();
            if (problem.empty()) problem = "unknown error";
        }
        if (selected) report(file.stem().string(), problem, count);
    }
    if (const auto metrics = folder / "metrics.json"; std::filesystem::exists(metrics)) {
        try {
            const Count more = run_metrics(metrics, methods);
            count.passed += more.passed;
            count.failed += more.failed;
        } catch (const std::exception& e) {
            report("metrics.json", e.what(), count);
        }
    }
    if (count.passed + count.failed == 0) std::printf("no case was run\n");
    std::printf("golden: %d passed, %d failed\n", count.passed, count.failed);
    return count.failed == 0 && count.passed > 0 ? 0 : 1;
}
