// Depthwise convolutions on uint8 activations, four channels in a word.
#pragma once

#include "simd/vector.h"

namespace mmrt {
namespace {

// One row of words.
void qdepthwise(const QDepthwiseTask& task) {
    const Channels how = channels_of(task);
    const int32_t* taps = task.taps;
    const int n_taps = task.n_taps;
    const int64_t positions = task.positions;
    const int8_t* const weights = task.weights;
    const uint32_t* x = task.x;
    uint32_t* y = task.y;
    int64_t p = 0;
    auto step = [&](auto steps) __attribute__((always_inline)) {
        ChannelSums<steps.value> sums(how);
        constexpr int TAP_BYTES = Q_ALONE ? 16 : 4;
        int i = 0;
        for (; i + MOST_TAPS <= n_taps; i += MOST_TAPS) add_taps<MOST_TAPS>(sums, x + p, taps + i, weights + TAP_BYTES * i);
        if (MOST_TAPS > Q_TAPS)
            for (; i < n_taps; i += Q_TAPS) add_taps<Q_TAPS>(sums, x + p, taps + i, weights + TAP_BYTES * i);
        store_channels(y + p, sums, how);
        p += steps.value * CHANNEL_WORDS;
    };
    if (CHANNEL_STEPS > 1)
        while (p + (CHANNEL_STEPS - 1) * CHANNEL_WORDS < positions) step(Code<CHANNEL_STEPS>());
    while (p < positions) step(Code<1>());
}

constexpr QDepthwiseKernel QDEPTHWISE = {.run = qdepthwise, .offset = Q_OFFSET, .taps = Q_TAPS, .alone = Q_ALONE};

}  // namespace
}  // namespace mmrt
