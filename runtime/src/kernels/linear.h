// LINEAR on many positions: sparse and dense.
#pragma once

#include <utility>

#include "finish.h"

namespace mmrt {
namespace {

MMRT_INLINE const float* at_bytes(const float* p, int64_t bytes) { return reinterpret_cast<const float*>(reinterpret_cast<const char*>(p) + bytes); }

// Two non-zeros, the second for accumulators of its own or for the same.
template <int T>
MMRT_INLINE void add_two(V (&even)[T], V (&odd)[T], const float* x, const Nonzero* nz) {
    V values[2];
    if constexpr (BY_LANE && T > 0) {
        const V both = load(reinterpret_cast<const float*>(nz));  // offset, value, offset, value
        for (int i = 0; i < 2; ++i) values[i] = splat(lane(both, 2 * i + 1));
    } else {
        for (int i = 0; i < 2; ++i) values[i] = splat(nz[i].value);
    }
    add_row<T>(even, at_bytes(x, nz[0].offset), values[0]);
    add_row<T>(odd, at_bytes(x, nz[1].offset), values[1]);
}

// A non-zero costs one broadcast and T multiply-adds whose operand is read where it lies. Fewer than five accumulators do not
// fill two FMA units of latency 4, so there every second non-zero has accumulators of its own.
template <int T>
void sparse_rows(const SparseTask& task) {
    constexpr bool PAIRED = T < 5;
    const Nonzero* nz = task.nonzeros;
    for (int i = 0; i < task.n_rows; ++i) {
        const int row = task.rows[i];
        float* y = task.y + row * task.y_stride;
        V acc[T];
        if (task.first) {
            V start = splat(task.bias ? task.bias[row] : 0.f);
            for (int j = 0; j < T; ++j) acc[j] = start;
        } else {
            for (int j = 0; j < T; ++j) acc[j] = load(y + j * W);
        }
        const Nonzero *end = nz + task.counts[i], *pairs_end = nz + task.counts[i] / 2 * 2;
        if (PAIRED) {
            V odd[T] = {};
            for (; nz < pairs_end; nz += 2) add_two<T>(acc, odd, task.x, nz);
            for (int j = 0; j < T; ++j) acc[j] += odd[j];
        } else if (BY_LANE) {
            for (; nz < pairs_end; nz += 2) add_two<T>(acc, acc, task.x, nz);
        }
        for (; nz < end; ++nz) add_row<T>(acc, at_bytes(task.x, nz->offset), splat(nz->value));
        if (task.last) {
            finish<T>(acc, y, task.residual ? task.residual + row * task.residual_stride : nullptr, task.act);
        } else {
            for (int j = 0; j < T; ++j) store(y + j * W, acc[j]);
        }
    }
}

template <int... I>
void run_sparse(const SparseTask& task, std::integer_sequence<int, I...>) {
    static constexpr void (*RUN[])(const SparseTask&) = {sparse_rows<I + 1>...};
    RUN[task.vectors - 1](task);
}

void sparse(const SparseTask& task) { run_sparse(task, std::make_integer_sequence<int, SPARSE_VECTORS>()); }

// Four outputs at once: of an input's T vectors each is read once for all of them.
template <int T>
void quad_rows(const QuadTask& task) {
    const float* w = task.values;
    const int32_t* offset = task.offsets;
    for (int i = 0; i < task.n_rows; ++i) {
        const int row = task.rows[i], n = task.end - row < 4 ? task.end - row : 4;
        float* y = task.y + row * task.y_stride;
        V acc[4][T];
        UNROLL for (int r = 0; r < 4; ++r) {
            const V start = splat(task.first && task.bias && r < n ? task.bias[row + r] : 0.f);
            UNROLL for (int j = 0; j < T; ++j) acc[r][j] = task.first || r >= n ? start : load(y + r * task.y_stride + j * W);
        }
        if (task.alike) offset = task.offsets;
        for (const int32_t* end = offset + task.counts[i]; offset < end; ++offset, w += 4) {
            const float* x = in_register(at_bytes(task.x, *offset));
            V in[T];
            UNROLL for (int j = 0; j < T; ++j) in[j] = load(x + j * W);
            if constexpr (BY_LANE && W == 4) {
                const V values = load(w);
                UNROLL for (int r = 0; r < 4; ++r) { UNROLL for (int j = 0; j < T; ++j) acc[r][j] += in[j] * splat(lane(values, r)); }
            } else {
                UNROLL for (int r = 0; r < 4; ++r) {
                    const V value = splat(w[r]);
                    UNROLL for (int j = 0; j < T; ++j) acc[r][j] += in[j] * value;
                }
            }
        }
        UNROLL for (int r = 0; r < 4; ++r) {
            float* to = y + r * task.y_stride;
            if (r >= n) continue;
            if (task.last) finish<T>(acc[r], to, task.residual ? task.residual + (row + r) * task.residual_stride : nullptr, task.act);
            else UNROLL for (int j = 0; j < T; ++j) store(to + j * W, acc[r][j]);
        }
    }
}

void quads(const QuadTask& task) {
    with_count<QUAD_VECTORS>(task.vectors, [&](auto vectors) { quad_rows<vectors.value>(task); });
}

template <int R, int T>
void dense_tile(const DenseTask& task) {
    V acc[R][T];
    for (int r = 0; r < R; ++r) {
        V start = splat(task.first && task.bias ? task.bias[r] : 0.f);
        for (int j = 0; j < T; ++j) acc[r][j] = task.first ? start : load(task.y + r * task.y_stride + j * W);
    }
    const float* w = task.weights;
    for (int k = 0; k < task.inputs; ++k, w += R) {
        V in[T];
        for (int j = 0; j < T; ++j) in[j] = load(task.x + (k * T + j) * W);
        if constexpr (BY_LANE && R % W == 0) {
            V ws[R / W];
            for (int q = 0; q < R / W; ++q) ws[q] = load(w + q * W);
            for (int r = 0; r < R; ++r)
                for (int j = 0; j < T; ++j) acc[r][j] += in[j] * splat(lane(ws[r / W], r % W));
        } else {
            for (int r = 0; r < R; ++r)
                for (int j = 0; j < T; ++j) acc[r][j] += in[j] * splat(w[r]);
        }
    }
    for (int r = 0; r < R; ++r) {
        float* y = task.y + r * task.y_stride;
        if (task.last) {
            finish<T>(acc[r], y, task.residual ? task.residual + r * task.residual_stride : nullptr, task.act);
        } else {
            for (int j = 0; j < T; ++j) store(y + j * W, acc[r][j]);
        }
    }
}

void dense(const DenseTask& task) {
    with_count<DENSE_VECTORS>(task.vectors, [&](auto vectors) {
        with_count<DENSE_ROWS>(task.n_rows, [&](auto rows) { dense_tile<rows.value, vectors.value>(task); });  // weights are packed n_rows wide
    });
}

template <int T>
void gather_vectors(const float* x, const int32_t* offsets, int rows, float* out) {
    for (int k = 0; k < rows; ++k, out += T * W) {
        const float* row = in_register(at_bytes(x, offsets[k]));
        for (int j = 0; j < T; ++j) store(out + j * W, load(row + j * W));
    }
}

void gather_rows(const float* x, const int32_t* offsets, int rows, int vectors, float* out) {
    with_count<DENSE_VECTORS>(vectors, [&](auto count) { gather_vectors<count.value>(x, offsets, rows, out); });
}

constexpr SparseKernel SPARSE = {.run = sparse, .vectors = SPARSE_VECTORS, .below = SPARSE_BELOW, .below_taps = SPARSE_BELOW_TAPS};
constexpr QuadKernel QUADS = {.run = quads, .vectors = QUAD_VECTORS, .below = QUADS_BELOW};
constexpr DenseKernel DENSE = {.run = dense, .gather_rows = gather_rows, .rows = DENSE_ROWS, .vectors = DENSE_VECTORS};

}  // namespace
}  // namespace mmrt
