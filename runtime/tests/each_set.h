// The sets of kernels that a test goes through: all that this CPU runs, or the one that MMRT_ISA forces.
#pragma once

#include <cstdlib>

#include "check.h"
#include "kernels.h"

namespace check {

template <class Test>
void each_set(Test test) {
    const char* forced = std::getenv("MMRT_ISA");
    const mmrt::Kernels* only = forced && *forced ? &mmrt::choose_kernels(mmrt::cpu_features(), forced) : nullptr;
    int count = 0;
    const mmrt::Kernels* const* sets = mmrt::all_kernels(&count);
    for (int i = 0; i < count; ++i) {
        const mmrt::Kernels& set = *sets[i];
        if (only && only != &set) continue;
        if ((set.needs & mmrt::cpu_features()) != set.needs) {
            std::printf("skipped %s: this CPU cannot run it\n", set.name);
            ++skipped;
            continue;
        }
        const int before = passed;
        test(set);
        std::printf("%s: %d checks passed\n", set.name, passed - before);
    }
}

}  // namespace check
