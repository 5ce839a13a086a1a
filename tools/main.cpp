// SPDX-License-Identifier: Apache-2.0
// polyad: train, score, serve and look into skillsets from the command line.
#include <cstdio>

#include "common.h"

int main(int argc, char** argv) {
    CLI::App app{
        "Polyad: train, mix, save, reload and switch many small skills of one frozen transformer.\n\n"
        "  polyad train    --model smollm2-135m.gguf --tasks tasks/ --method cpoly --rank 8 --out "
        "words.polyad\n"
        "  polyad eval     --model smollm2-135m.gguf --bundle words.polyad --tasks tasks/ --split test\n"
        "  polyad generate --model smollm2-135m.gguf --bundle words.polyad --task antonym \"hot\"\n"
        "  polyad inspect  words.polyad\n"
        "  polyad import   --model smollm2-135m.gguf peft-folder/ --out adapter.polyad\n"
        "  polyad export   --model smollm2-135m.gguf --bundle words.polyad --task antonym --out lora/\n"
        "  polyad derive   --model smollm2-135m.gguf --bundle words.polyad --form squeeze --task antonym "
        "--out one.polyad\n"
        "  polyad report   run/\n"
        "  polyad devices\n"};
    app.footer(
        "Exit codes: 0 done, 1 unexpected, 2 wrong options or configuration, 3 file missing or unreadable,\n"
        "4 damaged file or unusable data, 5 unsupported or another backbone's bundle, 6 NaN, 7 out of "
        "memory,\n"
        "130 interrupted (Ctrl-C saves a checkpoint when training).");
    app.set_version_flag("--version",
                         std::string("polyad ") + polyad_version_string() + "\n" + polyad_build_info());
    app.require_subcommand(1);
    int exit = cli::success;
    cli::add_train(app, exit);
    cli::add_eval(app, exit);
    cli::add_generate(app, exit);
    cli::add_inspect(app, exit);
    cli::add_tasks(app, exit);
    cli::add_import(app, exit);
    cli::add_export(app, exit);
    cli::add_derive(app, exit);
    cli::add_report(app, exit);
    cli::add_devices(app, exit);
    cli::watch_interrupt();
    polyad_log_set_sink(
        [](int32_t level, const char* message, void*) {
            if (level >= POLYAD_LOG_WARNING) std::fprintf(stderr, "polyad: %s\n", message);
        },
        nullptr);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& e) {
        return app.exit(e) == 0 ? cli::success : cli::wrong_usage;
    } catch (const cli::Failure& e) {
        std::fprintf(stderr, "polyad: %s: %s\n", polyad_code_name(e.code()), e.what());
        if (!e.detail().empty()) std::fprintf(stderr, "        at %s\n", e.detail().c_str());
        return cli::exit_code(e.code());
    } catch (const std::exception& e) {
        std::fprintf(stderr, "polyad: %s\n", e.what());
        return cli::unexpected;
    }
    return exit;
}
