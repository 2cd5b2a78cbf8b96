// What the kernels that add up products share: one input row times a weight, and the end of a row of outputs.
#pragma once

#include "simd/functions.h"

namespace mmrt {
namespace {

// In one place for all kernels: inlined into each, the many activations would be most of the library.
__attribute__((noinline)) void activate_row(const Act& act, float* y, int64_t n) {
    with_activation(act.code, [&](auto code) {
        for (int64_t i = 0; i < n; i += W) store(y + i, activate<decltype(code)::value>(load(y + i), act.a, act.b));
    });
}

// The end of a row: residual, then the activation, then the store.
template <int T>
MMRT_INLINE void finish(V (&acc)[T], float* y, const float* residual, const Act& act) {
    if (residual)
        for (int j = 0; j < T; ++j) acc[j] += load(residual + j * W);
    if (act.code == 1) {  // the most frequent one stays in registers
        V low = splat(act.a), high = splat(act.b);
        for (int j = 0; j < T; ++j) acc[j] = clamped(acc[j], low, high);
    }
    for (int j = 0; j < T; ++j) store(y + j * W, acc[j]);
    if (act.code > 1) activate_row(act, y, T * W);
}

// acc += w * the T vectors at x
template <int T>
MMRT_INLINE void add_row(V (&acc)[T], const float* x, V w) {
    constexpr int C = BY_LANE ? 2 : 1;
    x = in_register(x);
    for (int j = 0; j < T; j += C) {
        V in[C];
        for (int i = 0; i < C && j + i < T; ++i) in[i] = load(x + (j + i) * W);
        for (int i = 0; i < C && j + i < T; ++i) acc[j + i] += in[i] * w;
    }
}

}  // namespace
}  // namespace mmrt
