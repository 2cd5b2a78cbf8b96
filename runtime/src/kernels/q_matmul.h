// Products of activations that uint8 rounds: floats outside, integers inside.
#pragma once

#include "simd/steps.h"

namespace mmrt {
namespace {

// A float as the integer q - zero that uint8 makes of it: x / scale, rounded and clamped.
MMRT_INLINE Steps centring_of(const Number& n) { return steps_of(n.scale, -n.zero, 255.f - n.zero); }

struct PackedMatrices {
    const float *a, *b;
    int64_t depth, a_row, a_step, b_step;  // K / TOGETHER; strides in elements
};

// Sees whether one of the numbers is NaN. Of vectors that lines end in, the lanes behind the end are told apart when all is seen.
struct Seen {
    V whole = {}, ends = {};
    inline __attribute__((always_inline)) V operator()(V numbers, bool is_end = false) {
        (is_end ? ends : whole) += numbers * 0.f;
        return numbers;
    }
    bool no_nan(int64_t lanes_in_ends) const {
        float part[W];
        store(part, ends);
        for (int64_t i = 0; i < lanes_in_ends; ++i)
            if (part[i] != 0) return false;
        return vsum(whole) == 0;
    }
};

// b: [depth][N up to a vector]. Returns whether it has no NaN, and so does pack_a.
bool pack_b(const QMatmulTask& task, float* out, int64_t step) {
    const MatmulTask& t = task.floats;
    const Steps how = centring_of(task.b);
    Seen seen;
    for (int64_t k = 0; k < t.K; k += TOGETHER, out += step) {
        const float* even = t.b + k * t.b_row;
        const float* odd = TOGETHER == 2 && k + 1 < t.K ? even + t.b_row : nullptr;
        for (int64_t n = 0; n < t.N; n += W) {
            const bool is_end = n + W > t.N;
            store_packed(out + n, packed(seen(steps(load(even + n), how), is_end), odd ? seen(steps(load(odd + n), how), is_end) : splat(0.f)));
        }
    }
    return seen.no_nan(t.N % W);
}

// a, whose columns (a_row == 1) or lines lie together: [depth][M], or [M][depth].
bool pack_a(const QMatmulTask& task, float* out, PackedMatrices* m) {
    const MatmulTask& t = task.floats;
    const Steps how = centring_of(task.a);
    Seen seen;
    auto vector_at = [&](const float* p, int64_t left) { return seen(steps(left >= W ? load(p) : load_part(p, left), how)); };
    if (t.a_row == 1 && t.M > 1) {
        m->a_row = 1, m->a_step = (t.M + W - 1) / W * W;
        for (int64_t k = 0; k < t.K; k += TOGETHER, out += m->a_step)
            for (int64_t i = 0; i < t.M; i += W) {
                const float* even = t.a + k * t.a_column + i;
                store_packed(out + i, packed(vector_at(even, t.M - i), TOGETHER == 2 && k + 1 < t.K ? vector_at(even + t.a_column, t.M - i) : splat(0.f)));
            }
        return seen.no_nan(0);
    }
    m->a_step = 1, m->a_row = (t.K + W * TOGETHER - 1) / (W * TOGETHER) * W;
    for (int64_t i = 0; i < t.M; ++i, out += m->a_row)
        for (int64_t k = 0; k < t.K; k += W) {
            const float* from = t.a + i * t.a_row + k * t.a_column;
            float gathered[W] = {};
            if (t.a_column != 1)
                for (int64_t j = 0; j < W && k + j < t.K; ++j) gathered[j] = from[j * t.a_column];
            store_line(out + k / TOGETHER, t.a_column == 1 ? vector_at(from, t.K - k) : seen(steps(load(gathered), how)));
        }
    return seen.no_nan(0);
}

template <int R, int T>
MMRT_INLINE void qmatmul_tile(const QMatmulTask& task, const PackedMatrices& p, int64_t m, int64_t n, int64_t last) {
    const float* a = p.a + m * p.a_row;
    const float* b = p.b + n;
    VI sums[R][T];
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < T; ++j) sums[r][j] = splat_int(0);
    for (int64_t begin = 0; begin < p.depth; begin += EXACT) {
        Products acc[R][T];
        for (int r = 0; r < R; ++r)
            for (int j = 0; j < T; ++j) acc[r][j] = no_products();
        const int64_t end = p.depth - begin > EXACT ? begin + EXACT : p.depth;
        for (int64_t k = begin; k < end; ++k) {
            Packed in[T];
            for (int j = 0; j < T; ++j) in[j] = load_packed(b + k * p.b_step + j * W);
            for (int r = 0; r < R; ++r) {
                const Packed w = splat_packed(a + r * p.a_row + k * p.a_step);
                for (int j = 0; j < T; ++j) acc[r][j] = multiply_packed(acc[r][j], in[j], w);
            }
        }
        for (int r = 0; r < R; ++r)
            for (int j = 0; j < T; ++j) sums[r][j] += whole(acc[r][j]);
        if (EXACT == INT64_MAX) break;
    }
    const V low = splat(-task.c.zero), high = splat(255.f - task.c.zero), scale = splat(task.c.scale), multiplier = splat(task.multiplier);
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < T; ++j) {
            float* c = task.floats.c + (m + r) * task.floats.c_row + n + j * W;
            const V v = vround(vmin(vmax(to_float(sums[r][j]) * multiplier, low), high)) * scale;
            if (j == T - 1 && last < W) store_part(c, v, last);
            else store(c, v);
        }
}

template <int T>
MMRT_INLINE void qmatmul_columns(const QMatmulTask& task, const PackedMatrices& p, int64_t n, int64_t last) {
    constexpr int R = W == 16 ? 8 : 4;
    int64_t m = 0;
    for (; m + R <= task.floats.M; m += R) qmatmul_tile<R, T>(task, p, m, n, last);
    if (R > 4 && m + 4 <= task.floats.M) qmatmul_tile<4, T>(task, p, m, n, last), m += 4;
    for (; m < task.floats.M; ++m) qmatmul_tile<1, T>(task, p, m, n, last);
}

bool qmatmul(const QMatmulTask& task) {
    const int64_t N = (task.floats.N + W - 1) / W * W;
    PackedMatrices p{};
    p.depth = (task.floats.K + TOGETHER - 1) / TOGETHER;
    p.b_step = N;
    float* a = task.scratch + p.depth * N;
    p.b = task.scratch, p.a = a;
    const bool b_is_right = pack_b(task, task.scratch, N), a_is_right = pack_a(task, a, &p);
    if (!a_is_right || !b_is_right) return false;
    for (int64_t n = 0; n < N;) {
        const int64_t left = (N - n) / W, take = left == 4 ? 2 : left < 3 ? left : 3;
        const int64_t last = take == left ? task.floats.N - (N - W) : W;
        if (take == 1) qmatmul_columns<1>(task, p, n, last);
        else if (take == 2) qmatmul_columns<2>(task, p, n, last);
        else qmatmul_columns<3>(task, p, n, last);
        n += take * W;
    }
    return true;
}

}  // namespace
}  // namespace mmrt
