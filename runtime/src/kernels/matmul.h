// MATMUL, and LINEAR on one position.
#pragma once

#include "elementwise.h"

namespace mmrt {
namespace {

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
    constexpr int R = W == 16 ? 8 : 4;
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
        for (; k + 4 * W <= t.inputs; k += 4 * W) add_products(acc, w + k, t.x + k);
        for (; k + W <= t.inputs; k += W) acc[0] += load(w + k) * load(t.x + k);
        if (k < t.inputs) acc[1] += load_part(w + k, t.inputs - k) * load_part(t.x + k, t.inputs - k);
        float sum = vsum((acc[0] + acc[1]) + (acc[2] + acc[3])) + (t.bias ? t.bias[o] : 0.f) + (t.residual ? t.residual[o] : 0.f);
        t.y[o] = sum;
    }
    if (t.act.code) unary(t.act, t.y, t.y, t.rows);
}

}  // namespace
}  // namespace mmrt
