// Which kernels run here. Compiled for no ISA in particular.
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace mmrt {

namespace {

template <class K>
bool is_named(const K& kernel) {
    if constexpr (std::is_pointer_v<K>) return kernel;
    else return kernel.run;
}

// With the kernels that `set` does not name itself, from the sets that it builds on.
Kernels complete(Kernels set) {
    for (const Kernels* base = set.builds_on; base; base = base->builds_on) {
        set.needs |= base->needs;
#define KERNEL(name, type) \
    if (!is_named(set.name)) set.name = base->name;
#include "kernels.inc"
#undef KERNEL
    }
    return set;
}

const std::vector<const Kernels*>& sets() {
#define KERNEL_SET(name) complete(kernels_##name),
    static const Kernels complete_sets[] = {
#include "sets.inc"
    };
#undef KERNEL_SET
    static const std::vector<const Kernels*> all = [] {
        std::vector<const Kernels*> out;
        for (const Kernels& set : complete_sets) out.push_back(&set);
        return out;
    }();
    return all;
}

std::string names(unsigned features) {
    std::string out;
    for (const Kernels* set : sets())
        if ((set->needs & features) == set->needs) out += (out.empty() ? "" : ", ") + std::string(set->name);
    return out;
}

}  // namespace

unsigned cpu_features() {
    unsigned features = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) features |= AVX2;
    if (__builtin_cpu_supports("fma")) features |= FMA;
    if (__builtin_cpu_supports("avx512f")) features |= AVX512F;
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) features |= AVX512VNNI;
    if (unsigned eax, ebx, ecx, edx; __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && eax & 1u << 4) features |= AVXVNNI;
#elif defined(__aarch64__)
    features |= NEON;
    if (getauxval(AT_HWCAP) & (1ul << 20)) features |= DOTPROD;  // HWCAP_ASIMDDP
#endif
    return features;
}

const Kernels* const* all_kernels(int* count) {
    *count = int(sets().size());
    return sets().data();
}

const Kernels& choose_kernels(unsigned features, const char* forced) {
    if (forced && *forced) {
        for (const Kernels* set : sets()) {
            if (std::strcmp(set->name, forced) != 0) continue;
            if ((set->needs & features) == set->needs) return *set;
            throw std::runtime_error(std::string("MMRT_ISA=") + forced + ": this CPU lacks what it needs; there are " + names(features));
        }
        throw std::runtime_error(std::string("MMRT_ISA=") + forced + " is not known; there are " + names(features));
    }
    for (const Kernels* set : sets())
        if ((set->needs & features) == set->needs) return *set;
    throw std::runtime_error("no kernels for this CPU");
}

}  // namespace mmrt
