// QLINEAR on one position.
#pragma once

#include "simd/vector.h"

namespace mmrt {
namespace {

// One position. Rows of weights lie one after the other, `words` long.
void qmatvec(const QMatvecTask& task) {
    const float low = task.out.low - task.out.zero, high = task.out.high - task.out.zero;
    const Sum sum = task.sum;
    for (int row = 0; row < task.rows; ++row) {
        const uint32_t* weights = task.weights + row * task.words;
        int32_t acc = task.bias[row];
        int64_t k = dot_line(task.x, weights, task.words, &acc);
        for (; k < task.words; ++k)
            for (int i = 0; i < 4; ++i)
                acc += (static_cast<int32_t>((task.x[k] ^ FLIPPED) >> (8 * i) & 255) - Q_OFFSET) * static_cast<int8_t>(weights[k] >> (8 * i));
        auto nearest = [](float value, float low, float high) { return std::nearbyint(value < low ? low : value > high ? high : value); };
        float q = nearest(static_cast<float>(acc) * task.multiplier[row], low, high) + task.out.zero;
        if (task.residual) {
            const float other = static_cast<uint8_t>(task.residual[row] ^ FLIPPED), a = task.residual_first ? other : q, b = task.residual_first ? q : other;
            q = nearest(std::fma(a, sum.a_ratio, std::fma(b, sum.b_ratio, sum.offset)), sum.low, sum.high);
        }
        task.y[row] = static_cast<uint8_t>(static_cast<uint32_t>(q) ^ FLIPPED);
    }
}

constexpr QMatvecKernel QMATVEC = {.run = qmatvec, .offset = Q_OFFSET};

}  // namespace
}  // namespace mmrt
