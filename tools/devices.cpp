// SPDX-License-Identifier: Apache-2.0
// polyad devices: what this machine can compute on.
#include <cstdio>

#include "common.h"

namespace cli {
namespace {

void print(const Json& devices) {
    for (const Json& device : devices.at("devices")) {
        std::printf("%-8s", device.at("name").get<std::string>().c_str());
        if (!device.at("usable").get<bool>())
            std::printf(" not usable: %s", device.at("reason").get<std::string>().c_str());
        else if (device.contains("description"))
            std::printf(" %s, compute capability %s, %.1f of %.1f GiB free",
                        device.at("description").get<std::string>().c_str(),
                        device.at("compute_capability").get<std::string>().c_str(),
                        device.at("free").get<double>() / (1 << 30),
                        device.at("memory").get<double>() / (1 << 30));
        std::printf("\n");
    }
    if (devices.at("cuda").is_string()) std::printf("%s\n", devices.at("cuda").get<std::string>().c_str());
}

}  // namespace

void add_devices(CLI::App& app, int& exit) {
    auto* command = app.add_subcommand("devices", "List what --device may name on this machine");
    auto json = std::make_shared<bool>(false);
    command->add_flag("--json", *json, "Print one JSON document instead of text");
    command->callback([json, &exit] {
        const Json devices = json_of(polyad_devices);
        if (*json)
            std::printf("%s\n", devices.dump(2).c_str());
        else
            print(devices);
        exit = success;
    });
}

}  // namespace cli
