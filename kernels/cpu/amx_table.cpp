// SPDX-License-Identifier: Apache-2.0
// The avx512 set, with what AMX computes faster in its place.
#include "kernels/cpu/amx_table.h"

#if defined(POLYAD_X86)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define POLYAD_ISA amx
#include "kernels/cpu/isa/kernels.h"

namespace polyad::kernels {

namespace avx512 {
extern const OpTable table;
}

namespace amx {

const OpTable& set() {
    static const OpTable table = [] {
        OpTable t = avx512::table;
        t.isa = "amx";
        t.multiply_dense = multiply_dense;
        t.attention = attention;
        t.attention_backward = attention_backward;
        t.tree_attention = tree_attention;
        t.tree_attention_backward = tree_attention_backward;
        t.attend_span = attend_span;
        t.attend_span_backward = attend_span_backward;
        t.low_rank_down = low_rank_down;
        t.low_rank_up = low_rank_up;
        t.low_rank_up_backward = low_rank_up_backward;
        t.low_rank_down_backward = low_rank_down_backward;
        return t;
    }();
    return table;
}

bool runs() {
    static const bool allowed = [] {
        unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
        constexpr unsigned tiles = 1u << 24, bf16 = 1u << 22;
        if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(edx & tiles) || !(edx & bf16)) return false;
#if defined(__linux__) && defined(SYS_arch_prctl)
        // A process asks once before its threads may use tiles; refused where a thread's signal stack is too
        // small.
        constexpr int request_permission = 0x1023, tile_data = 18;
        return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
        return false;
#endif
    }();
    return allowed;
}

}  // namespace amx
}  // namespace polyad::kernels
#endif
