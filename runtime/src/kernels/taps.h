// DEPTHWISE and POOL: one channel's positions, tap by tap.
#pragma once

#include "finish.h"
#include "reduce.h"

namespace mmrt {
namespace {

enum Taps { WEIGHTED, LARGEST, LARGEST_OR_NAN, SUM };

// T vectors of positions; the last may write up to the next multiple of 16 (FORMAT.md, Rows).
template <int T, Taps KIND>
void taps_chunk(const TapsTask& task, int64_t p) {
    V acc[T];
    V start = splat(KIND == LARGEST || KIND == LARGEST_OR_NAN ? -std::numeric_limits<float>::infinity() : task.start);
    for (int j = 0; j < T; ++j) acc[j] = start;
    for (int t = 0; t < task.n_taps; ++t) {
        const float* x = task.x + p + task.taps[t];
        if (KIND == WEIGHTED) {
            add_row<T>(acc, x, splat(task.weights[t]));
        } else {
            for (int j = 0; j < T; ++j) {
                const V next = load(x + j * W);
                acc[j] = KIND == LARGEST ? vmax(acc[j], next) : KIND == LARGEST_OR_NAN ? vmax_nan(acc[j], next) : acc[j] + next;
            }
        }
    }
    if (KIND == SUM)
        for (int j = 0; j < T; ++j) acc[j] *= splat(task.scale);
    finish<T>(acc, task.y + p, task.residual ? task.residual + p : nullptr, task.act);
}

template <Taps KIND>
void taps_of(const TapsTask& task) {
    constexpr int T = W <= 4 ? 8 : 4;
    int64_t p = 0;
    for (; p + T * W <= task.positions; p += T * W) taps_chunk<T, KIND>(task, p);
    for (; p + 2 * W < task.positions; p += 3 * W) taps_chunk<3, KIND>(task, p);
    for (; p < task.positions; p += W) taps_chunk<1, KIND>(task, p);
}

// Whether NaN may be among what the taps see: the sum of all that lies there tells, in fewer instructions than as many maxima that
// keep NaN take.
bool seen_nan(const TapsTask& task) {
    if (MAX_KEEPS_NAN) return false;
    const auto [low, high] = std::minmax_element(task.taps, task.taps + task.n_taps);
    const float sum = reduce_row(0, task.x + *low, task.positions + *high - *low);
    return sum != sum;
}

void taps(const TapsTask& task) {
    if (task.maximum) seen_nan(task) ? taps_of<LARGEST_OR_NAN>(task) : taps_of<LARGEST>(task);
    else if (task.weights) taps_of<WEIGHTED>(task);
    else taps_of<SUM>(task);
}

}  // namespace
}  // namespace mmrt
