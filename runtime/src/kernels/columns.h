// LINEAR, dense, with vectors of outputs: of each input a position's value meets the weights of many outputs, so no element of a vector is idle
// however few positions there are, and inputs are read where they lie.
#pragma once

#include "finish.h"

namespace mmrt {
namespace {

// Of registers: sums of COLUMN_VECTORS x COLUMN_POSITIONS, the weights, and a position's input.
constexpr int COLUMN_VECTORS = W == 16 ? 4 : 2, COLUMN_POSITIONS = 6, COLUMN_OUTPUTS = COLUMN_VECTORS * W;
constexpr int COLUMN_INPUTS = 512;  // whose weights stay in the L2 cache while all positions meet them

// Adds the products of inputs [begin, end) to sums[position][output of the block], of R vectors of outputs and P positions.
template <int R, int P>
void columns_tile(const ColumnsTask& task, const float* weights, const float* bias, int begin, int end, int position) {
    float* sums = task.sums + position * COLUMN_OUTPUTS;
    V acc[P][R];
    UNROLL for (int p = 0; p < P; ++p) { UNROLL for (int r = 0; r < R; ++r) acc[p][r] = load(begin ? sums + p * COLUMN_OUTPUTS + r * W : bias + r * W); }
    const float* x = task.x + position;
    for (int i = begin; i < end; ++i) {
        const float* from = reinterpret_cast<const float*>(reinterpret_cast<const char*>(x) + task.offsets[i]);
        V w[R];
        UNROLL for (int r = 0; r < R; ++r) {
            V read = load(weights + (int64_t(i) * R + r) * W);
            HOLD(read);
            w[r] = read;
        }
        UNROLL for (int p = 0; p < P; ++p) {
            const V in = splat(from[p]);
            UNROLL for (int r = 0; r < R; ++r) acc[p][r] += in * w[r];
        }
    }
    UNROLL for (int p = 0; p < P; ++p) { UNROLL for (int r = 0; r < R; ++r) store(sums + p * COLUMN_OUTPUTS + r * W, acc[p][r]); }
}

template <int R>
void columns_block(const ColumnsTask& task, const float* weights, const float* bias) {
    const int tiles = (task.positions + COLUMN_POSITIONS - 1) / COLUMN_POSITIONS;
    for (int begin = 0; begin < task.inputs; begin += COLUMN_INPUTS) {
        const int end = task.inputs - begin < COLUMN_INPUTS ? task.inputs : begin + COLUMN_INPUTS;
        for (int tile = 0; tile < tiles; ++tile) {
            const int from = task.positions * tile / tiles, to = task.positions * (tile + 1) / tiles;
            with_count<COLUMN_POSITIONS>(to - from, [&](auto count) { columns_tile<R, count.value>(task, weights, bias, begin, end, from); });
        }
    }
}

// One output's sums side by side, then what every row of outputs ends with.
MMRT_INLINE void finish_output(const ColumnsTask& task, int row, const float* sums) {
    float* y = task.y + row * task.y_stride;
    const float* residual = task.residual ? task.residual + row * task.residual_stride : nullptr;
    for (int begin = 0; begin < task.positions; begin += W) {
        float line[W];
        const int n = task.positions - begin < W ? task.positions - begin : W;
        for (int p = 0; p < n; ++p) line[p] = sums[(begin + p) * COLUMN_OUTPUTS];
        for (int p = n; p < W; ++p) line[p] = 0;
        V acc[1] = {load(line)};
        finish<1>(acc, y + begin, residual ? residual + begin : nullptr, task.act);
    }
}

void columns(const ColumnsTask& task) {
    const float* weights = task.weights;
    for (int row = 0; row < task.outputs; row += COLUMN_OUTPUTS) {
        const int outputs = task.outputs - row < COLUMN_OUTPUTS ? task.outputs - row : COLUMN_OUTPUTS, vectors = (outputs + W - 1) / W;
        with_count<COLUMN_VECTORS>(vectors, [&](auto count) { columns_block<count.value>(task, weights, task.bias + row); });
        weights += int64_t(task.inputs) * vectors * W;
        for (int k = 0; k < outputs; ++k) finish_output(task, row + k, task.sums + k);
    }
}

constexpr ColumnsKernel COLUMNS = {.run = columns, .outputs = COLUMN_OUTPUTS, .gain = W == 16 ? 1 : 1.1};

}  // namespace
}  // namespace mmrt
