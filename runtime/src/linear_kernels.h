// The kernels of LINEAR, DEPTHWISE, POOL and MATMUL, written once over V. Included by the isa_*.cc files; internal linkage throughout.
#pragma once

#include <utility>

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
        const Nonzero* end = nz + task.counts[i];
        if (PAIRED) {
            V odd[T] = {};
            for (; nz + 1 < end; nz += 2) add_two<T>(acc, odd, task.x, nz);
            for (int j = 0; j < T; ++j) acc[j] += odd[j];
        } else if (BY_LANE) {
            for (; nz + 1 < end; nz += 2) add_two<T>(acc, acc, task.x, nz);
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

void sparse(const SparseTask& task) { run_sparse(task, std::make_integer_sequence<int, MMRT_SPARSE_VECTORS>()); }

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

template <int T>
void gather_vectors(const float* x, const int32_t* offsets, int rows, float* out) {
    for (int k = 0; k < rows; ++k, out += T * W) {
        const float* row = in_register(at_bytes(x, offsets[k]));
        for (int j = 0; j < T; ++j) store(out + j * W, load(row + j * W));
    }
}

void gather_rows(const float* x, const int32_t* offsets, int rows, int vectors, float* out) {
    switch (vectors) {
        case 1: return gather_vectors<1>(x, offsets, rows, out);
        case 2: return gather_vectors<2>(x, offsets, rows, out);
        case 3: return gather_vectors<3>(x, offsets, rows, out);
    }
}

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
    constexpr int R = MMRT_WIDTH == 16 ? 8 : 4;
    int64_t m = 0;
    for (; m + R <= t.M; m += R) matmul_tile<R, T>(t, m, n, last);
    if (R > 4 && m + 4 <= t.M) matmul_tile<4, T>(t, m, n, last), m += 4;
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

MMRT_INLINE void add_products(V (&acc)[4], const float* a, const float* b) {
    for (int j = 0; j < 4; j += 2) {  // two loads of each side by side: NEON makes one of them
        V a0 = load(a + j * W), a1 = load(a + (j + 1) * W), b0 = load(b + j * W), b1 = load(b + (j + 1) * W);
        acc[j] += a0 * b0;
        acc[j + 1] += a1 * b1;
    }
}

void matvec(const MatvecTask& t) {
    for (int64_t o = 0; o < t.rows; ++o) {
        const float* w = t.weights + o * t.inputs;
        V acc[4] = {};
        int64_t k = 0;
        for (; k + 4 * W <= t.inputs; k += 4 * W)
            add_products(acc, w + k, t.x + k);
        for (; k + W <= t.inputs; k += W) acc[0] += load(w + k) * load(t.x + k);
        if (k < t.inputs) acc[1] += load_part(w + k, t.inputs - k) * load_part(t.x + k, t.inputs - k);
        float sum = vsum((acc[0] + acc[1]) + (acc[2] + acc[3])) + (t.bias ? t.bias[o] : 0.f) + (t.residual ? t.residual[o] : 0.f);
        t.y[o] = sum;
    }
    if (t.act.code) unary(t.act, t.y, t.y, t.rows);
}

}  // namespace
}  // namespace mmrt
