// The kernels of LINEAR, DEPTHWISE, POOL and MATMUL, written once over V. Included by the isa_*.cc files; internal linkage throughout.
#pragma once

#include "elementwise.h"
#include "kernels.h"
#include "vector.h"

namespace mmrt {
namespace {

MMRT_INLINE const float* at_bytes(const float* p, int64_t bytes) {
    return reinterpret_cast<const float*>(reinterpret_cast<const char*>(p) + bytes);
}

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
        for (int j = 0; j < T; ++j) acc[j] = vmin(vmax(acc[j], low), high);
    }
    for (int j = 0; j < T; ++j) store(y + j * W, acc[j]);
    if (act.code > 1) activate_row(act, y, T * W);
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
        const Nonzero* end = nz + task.counts[i];
        if (PAIRED) {
            V odd[T] = {};
            for (; nz + 1 < end; nz += 2) {
                const float* x0 = at_bytes(task.x, nz[0].offset);
                const float* x1 = at_bytes(task.x, nz[1].offset);
                V w0 = splat(nz[0].value), w1 = splat(nz[1].value);
                for (int j = 0; j < T; ++j) acc[j] += load(x0 + j * W) * w0;
                for (int j = 0; j < T; ++j) odd[j] += load(x1 + j * W) * w1;
            }
            for (int j = 0; j < T; ++j) acc[j] += odd[j];
        }
        for (; nz < end; ++nz) {
            const float* x = at_bytes(task.x, nz->offset);
            V w = splat(nz->value);
            for (int j = 0; j < T; ++j) acc[j] += load(x + j * W) * w;
        }
        if (task.last) {
            finish<T>(acc, y, task.residual ? task.residual + row * task.residual_stride : nullptr, task.act);
        } else {
            for (int j = 0; j < T; ++j) store(y + j * W, acc[j]);
        }
    }
}

template <int... T>
struct SparseTable {
    static constexpr void (*run[])(const SparseTask&) = {sparse_rows<T>...};
};

void sparse(const SparseTask& task) {
    SparseTable<1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12>::run[task.vectors - 1](task);
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
        for (int r = 0; r < R; ++r)
            for (int j = 0; j < T; ++j) acc[r][j] += in[j] * splat(w[r]);
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

template <int T>
void dense_rows(const DenseTask& task) {
    switch (task.n_rows) {  // weights are packed n_rows wide
        case 1: return dense_tile<1, T>(task);
        case 2: return dense_tile<2, T>(task);
        case 3: return dense_tile<3, T>(task);
        case 4: return dense_tile<4, T>(task);
#if MMRT_DENSE_ROWS > 4
        case 5: return dense_tile<5, T>(task);
        case 6: return dense_tile<6, T>(task);
        case 7: return dense_tile<7, T>(task);
        case 8: return dense_tile<8, T>(task);
#endif
    }
}

void dense(const DenseTask& task) {
    switch (task.vectors) {
        case 1: return dense_rows<1>(task);
        case 2: return dense_rows<2>(task);
        case 3: return dense_rows<3>(task);
    }
}

void gather_rows(const float* x, const int32_t* offsets, int rows, int vectors, float* out) {
    for (int k = 0; k < rows; ++k)
        for (int j = 0; j < vectors; ++j, out += W) store(out, load(at_bytes(x, offsets[k]) + j * W));
}

// N positions vectors at a time; the tail may write up to the next multiple of 16 (FORMAT.md, Rows).
template <int T>
MMRT_INLINE void taps_chunk(const TapsTask& task, int64_t p) {
    V acc[T];
    V start = splat(task.maximum ? -std::numeric_limits<float>::infinity() : task.start);
    for (int j = 0; j < T; ++j) acc[j] = start;
    for (int t = 0; t < task.n_taps; ++t) {
        const float* x = task.x + p + task.taps[t];
        if (task.maximum) {
            for (int j = 0; j < T; ++j) acc[j] = vmax(acc[j], load(x + j * W));
        } else if (task.weights) {
            V w = splat(task.weights[t]);
            for (int j = 0; j < T; ++j) acc[j] += load(x + j * W) * w;
        } else {
            for (int j = 0; j < T; ++j) acc[j] += load(x + j * W);
        }
    }
    if (!task.maximum && !task.weights)
        for (int j = 0; j < T; ++j) acc[j] *= splat(task.scale);
    finish<T>(acc, task.y + p, task.residual ? task.residual + p : nullptr, task.act);
}

void taps(const TapsTask& task) {
    constexpr int T = W == 1 ? 8 : 4;
    int64_t p = 0;
    for (; p + T * W <= task.positions; p += T * W) taps_chunk<T>(task, p);
    for (; p < task.positions; p += W) taps_chunk<1>(task, p);
}

template <int R, int T>
MMRT_INLINE void matmul_tile(const MatmulTask& t, int64_t m, int64_t n, int64_t last) {
    V acc[R][T] = {};
    const float* a = t.a + m * t.a_row;
    const float* b = t.b + n;
    for (int64_t k = 0; k < t.K; ++k) {
        V in[T];
        for (int j = 0; j < T; ++j) in[j] = load(b + k * t.b_row + j * W);
        for (int r = 0; r < R; ++r) {
            V w = splat(a[r * t.a_row + k * t.a_column]);
            for (int j = 0; j < T; ++j) acc[r][j] += in[j] * w;
        }
    }
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < T; ++j) {
            float* c = t.c + (m + r) * t.c_row + n + j * W;
            V v = acc[r][j] * t.scale;
            if (j == T - 1 && last < W) store_part(c, v, last);
            else store(c, v);
        }
}

template <int T>
MMRT_INLINE void matmul_columns(const MatmulTask& t, int64_t n, int64_t last) {
    int64_t m = 0;
    for (; m + 4 <= t.M; m += 4) matmul_tile<4, T>(t, m, n, last);
    for (; m < t.M; ++m) matmul_tile<1, T>(t, m, n, last);
}

void matmul(const MatmulTask& t) {
    int64_t vectors = (t.N + W - 1) / W, tail = t.N - (vectors - 1) * W;
    for (int64_t v = 0; v < vectors;) {
        int64_t left = vectors - v, take = left == 4 ? 2 : left < 3 ? left : 3;
        int64_t last = take == left ? tail : W;
        if (take == 1) matmul_columns<1>(t, v * W, last);
        else if (take == 2) matmul_columns<2>(t, v * W, last);
        else matmul_columns<3>(t, v * W, last);
        v += take;
    }
}

void matvec(const MatvecTask& t) {
    for (int64_t o = 0; o < t.rows; ++o) {
        const float* w = t.weights + o * t.inputs;
        V acc[4] = {};
        int64_t k = 0;
        for (; k + 4 * W <= t.inputs; k += 4 * W)
            for (int j = 0; j < 4; ++j) acc[j] += load(w + k + j * W) * load(t.x + k + j * W);
        for (; k + W <= t.inputs; k += W) acc[0] += load(w + k) * load(t.x + k);
        if (k < t.inputs) acc[1] += load_part(w + k, t.inputs - k) * load_part(t.x + k, t.inputs - k);
        float sum = vsum((acc[0] + acc[1]) + (acc[2] + acc[3])) + (t.bias ? t.bias[o] : 0.f) + (t.residual ? t.residual[o] : 0.f);
        t.y[o] = sum;
    }
    if (t.act.code) unary(t.act, t.y, t.y, t.rows);
}

}  // namespace
}  // namespace mmrt
