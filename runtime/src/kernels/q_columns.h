// QLINEAR on few positions, dense: a vector holds outputs of one position, so none of its elements is idle however few positions there are.
#pragma once

#include "q_linear.h"

namespace mmrt {
namespace {

// Of registers: sums of Q_COLUMN_VECTORS x Q_COLUMN_POSITIONS, the weights, and a position's inputs.
constexpr int Q_COLUMN_VECTORS = W == 16 ? 4 : 2, Q_COLUMN_POSITIONS = 6, Q_COLUMN_OUTPUTS = Q_COLUMN_VECTORS * W;

// task.sums[position][output of the block], of R vectors of outputs and P positions.
template <int R, int P>
void qcolumns_tile(const QLinearTask& task, const uint32_t* weights, const int32_t* bias, int position) {
    VI acc[P][R];
    UNROLL for (int p = 0; p < P; ++p) { UNROLL for (int r = 0; r < R; ++r) acc[p][r] = load_ints(reinterpret_cast<const uint32_t*>(bias) + r * W); }
    const char* x = reinterpret_cast<const char*>(task.x + position);
    for (int i = 0; i < task.n_offsets; ++i, weights += R * W) {
        const uint32_t* from = reinterpret_cast<const uint32_t*>(x + task.offsets[i]);
        Four w[R];
        UNROLL for (int r = 0; r < R; ++r) {
            Four read = load_weights(weights + r * W);
            HOLD(read);
            w[r] = read;
        }
        UNROLL for (int p = 0; p < P; ++p) {
            const VI in = splat_int(static_cast<int32_t>(from[p]));
            UNROLL for (int r = 0; r < R; ++r) acc[p][r] = dot(acc[p][r], in, w[r]);
        }
    }
    uint32_t* sums = reinterpret_cast<uint32_t*>(task.sums) + position * Q_COLUMN_OUTPUTS;
    UNROLL for (int p = 0; p < P; ++p) { UNROLL for (int r = 0; r < R; ++r) store_ints(sums + p * Q_COLUMN_OUTPUTS + r * W, acc[p][r]); }
}

// The sums of a block of R vectors of outputs, at all positions.
template <int R>
void qcolumns_block(const QLinearTask& task, const uint32_t* weights, const int32_t* bias) {
    const int tiles = (task.positions + Q_COLUMN_POSITIONS - 1) / Q_COLUMN_POSITIONS;
    for (int tile = 0; tile < tiles; ++tile) {
        const int begin = task.positions * tile / tiles, end = task.positions * (tile + 1) / tiles;
        with_count<Q_COLUMN_POSITIONS>(end - begin, [&](auto count) { qcolumns_tile<R, count.value>(task, weights, bias, begin); });
    }
}

// Four words, four positions of one quad, at `quads` rows that follow each other.
MMRT_INLINE void copy_fours(const uint32_t* from, int64_t from_stride, uint32_t* to, int64_t to_stride, int quads) {
    for (int q = 0; q < quads; ++q) std::memcpy(to + q * to_stride, from + q * from_stride, 16);
}

// W outputs at four positions become W / 4 rows of words.
MMRT_INLINE void finish_column(const QLinearTask& task, const int32_t* sums, int quad, int position, const Finishing& how) {
    const int quads = task.n_quads - quad < W / 4 ? task.n_quads - quad : W / 4;
    const V multiplier = load(task.multiplier + 4 * quad);
    V rows[4];
    UNROLL for (int p = 0; p < 4; ++p) rows[p] = to_float(load_ints(reinterpret_cast<const uint32_t*>(sums) + p * Q_COLUMN_OUTPUTS)) * multiplier;
    VI out;
    alignas(4 * W) uint32_t words[W];
    if (task.residual) {
        copy_fours(task.residual + quad * task.residual_stride + position, task.residual_stride, words, 4, quads);
        for (int k = 4 * quads; k < W; ++k) words[k] = 0;
        store_ints(words, transposed_bytes(load_ints(words)));
        V others[4];
        read_rows(words, others);
        for (V& row : rows) row = quantized_float(row, how.clamp);
        out = task.residual_first ? added(others, rows, how.adding) : added(rows, others, how.adding);
    } else {
        out = words_of(rows[0], rows[1], rows[2], rows[3], how.to);
    }
    store_ints(words, transposed_bytes(out));
    copy_fours(words, 4, task.y + quad * task.y_stride + position, task.y_stride, quads);
}

void qcolumns(const QLinearTask& task) {
    const Finishing how = finishing_of(task);
    const uint32_t* weights = task.weights;
    for (int quad = 0; quad < task.n_quads; quad += Q_COLUMN_OUTPUTS / 4) {
        const int outputs = 4 * (task.n_quads - quad), vectors = outputs < Q_COLUMN_OUTPUTS ? (outputs + W - 1) / W : Q_COLUMN_VECTORS;
        with_count<Q_COLUMN_VECTORS>(vectors, [&](auto count) { qcolumns_block<count.value>(task, weights, task.bias + 4 * quad); });
        weights += int64_t(task.n_offsets) * vectors * W;
        for (int r = 0; r < vectors; ++r)
            for (int position = 0; position < task.positions; position += 4)
                finish_column(task, task.sums + position * Q_COLUMN_OUTPUTS + r * W, quad + r * W / 4, position, how);
    }
}

constexpr QColumnsKernel QCOLUMNS = {.run = qcolumns, .offset = Q_OFFSET, .outputs = Q_COLUMN_OUTPUTS};

}  // namespace
}  // namespace mmrt
