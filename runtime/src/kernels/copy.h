// Copies lines of inputs to where whole vectors of them lie in whole cache lines.
#pragma once

#include "simd/vector.h"

namespace mmrt {
namespace {

void copy_stretches(const CopyTask& task) {
    uint32_t* out = task.out;
    for (int i = 0; i < task.n_stretches; ++i) {
        const uint32_t* from = task.x + task.stretches[i].from;
        const int vectors = task.vectors + task.stretches[i].more;
        for (int v = 0; v < vectors; ++v) store_ints(out + v * W, load_ints(from + v * W));
        out += (task.most + task.stretches[i].more) * W;
    }
}

}  // namespace
}  // namespace mmrt
