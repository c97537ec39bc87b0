#include "cpu_features.h"

#if defined(HAS_X86_KERNELS)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

// Whether bit `bit` is set in `reg` (0..3 for eax..edx) of CPUID leaf 7, sub-leaf `sub`.
static bool has_feature(unsigned sub, int reg, int bit) {
    unsigned regs[4] = {};
    if (!__get_cpuid_count(7, sub, regs, regs + 1, regs + 2, regs + 3)) return false;
    return regs[reg] >> bit & 1;
}

// Linux gives a process the tile registers only when it asks for them.
static bool tiles_granted() {
    constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static void add_x86_kernels(std::vector<const Kernels*>& sets) {
    __builtin_cpu_init();
    // every processor with AVX2 has F16C, which older compilers cannot ask for
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return;
    sets.push_back(&avx2::kernels);
    if (has_feature(1, 0, 4)) sets.push_back(&avx_vnni::kernels);
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq")) {
        return;
    }
    sets.push_back(&avx512::kernels);
    if (!__builtin_cpu_supports("avx512vnni")) return;
    sets.push_back(&avx512_vnni::kernels);
    const bool has_bf16 = has_feature(1, 0, 5);
    if (has_bf16) sets.push_back(&avx512_bf16::kernels);
    const bool has_amx = has_feature(0, 3, 22) && has_feature(0, 3, 24);
    if (has_amx && has_bf16 && tiles_granted()) sets.push_back(&amx::kernels);
}
#endif

#if defined(HAS_ARM_KERNELS)
#if defined(__linux__)
#include <sys/auxv.h>
static bool has_dotprod() { return getauxval(AT_HWCAP) >> 20 & 1; }
static bool has_i8mm() { return getauxval(AT_HWCAP2) >> 13 & 1; }
#elif defined(__APPLE__)
#include <sys/sysctl.h>
static bool has_dotprod() { return true; }  // every Mac with an ARM processor
static bool has_i8mm() {                    // from M2 on
    int found = 0;
    size_t size = sizeof found;
    return sysctlbyname("hw.optional.arm.FEAT_I8MM", &found, &size, nullptr, 0) == 0 && found;
}
#else
static bool has_dotprod() { return false; }
static bool has_i8mm() { return false; }
#endif
#endif

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> sets = {&baseline::kernels};
#if defined(HAS_X86_KERNELS)
    add_x86_kernels(sets);
#endif
#if defined(HAS_ARM_KERNELS)
    if (has_dotprod()) sets.push_back(&dotprod::kernels);
    if (has_dotprod() && has_i8mm()) sets.push_back(&i8mm::kernels);
#endif
    return sets;
}
