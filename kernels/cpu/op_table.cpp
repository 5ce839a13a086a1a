// SPDX-License-Identifier: Apache-2.0
// Picks the instruction set: the one POLYAD_ISA names if this CPU runs it, else the best it runs.
#include "kernels/op_table.h"

#include <cstdlib>
#include <cstring>

#include "kernels/cpu/amx_table.h"

namespace polyad::kernels {

namespace portable {
extern const OpTable table;
}
#if defined(POLYAD_X86)
namespace avx2 {
extern const OpTable table;
}
namespace avx512 {
extern const OpTable table;
}
#endif

namespace {

struct Set {
    const OpTable& (*table)();
    bool (*runs)();
};

#if defined(POLYAD_X86)
bool runs_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma");
}
#endif

// The builtins ask the operating system's state (XCR0) as well as CPUID.
const Set sets[] = {
#if defined(POLYAD_X86)
    {amx::set, [] { return runs_avx512() && amx::runs(); }},
    {[]() -> const OpTable& { return avx512::table; }, runs_avx512},
    {[]() -> const OpTable& { return avx2::table; },
     [] {
         return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                __builtin_cpu_supports("bmi2");
     }},
#endif
    {[]() -> const OpTable& { return portable::table; }, [] { return true; }},
};

const OpTable& choose() {
    const char* wanted = std::getenv("POLYAD_ISA");
    if (wanted)
        if (const OpTable* table = ops_for(wanted)) return *table;
    for (const Set& set : sets)
        if (set.runs()) return set.table();
    return portable::table;
}

}  // namespace

const OpTable* ops_for(const char* isa) {
    for (const Set& set : sets)
        if (set.runs() && std::strcmp(set.table().isa, isa) == 0) return &set.table();
    return nullptr;
}

const OpTable& ops() {
    static const OpTable& chosen = choose();
    return chosen;
}

}  // namespace polyad::kernels
