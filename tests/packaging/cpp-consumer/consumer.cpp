// SPDX-License-Identifier: Apache-2.0
// Uses the installed package: the version, and an error that comes as an exception.
#include <cstdio>
#include <polyad/polyad.hpp>

int main() {
    if (polyad_version() != POLYAD_VERSION_NUMBER) return 1;
    try {
        const polyad::Context context;
        const polyad::Backbone model(context, "no-such-model.gguf");
    } catch (const polyad::Error& e) {
        std::printf("%s: %s\n", polyad_version_string(), e.what());
        return e.code() == POLYAD_NOT_FOUND ? 0 : 1;
    }
    return 1;
}
