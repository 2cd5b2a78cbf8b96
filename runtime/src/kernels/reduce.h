// Reductions, softmax and normalization, along an axis of rows or along one row.
#pragma once

#include <algorithm>

#include "elementwise.h"

namespace mmrt {
namespace {

MMRT_INLINE V load_some(const float* p, int64_t n) { return n >= W ? load(p) : load_part(p, n); }

MMRT_INLINE void store_some(float* p, V v, int64_t n) {
    if (n >= W) store(p, v);
    else store_part(p, v, n);
}

// REDUCE's kinds: 0 sum, 1 max, 2 min, 3 sqrt of the sum of squares; and 4, the max where NaN may get lost: for a softmax, whose sum has it.
constexpr int MAX_OF_NUMBERS = 4;
template <int KIND>
MMRT_INLINE V fold(V so_far, V x) {
    if (KIND == 1) return vmax_nan(so_far, x);
    if (KIND == 2) return vmin_nan(so_far, x);
    if (KIND == 3) return so_far + x * x;
    if (KIND == MAX_OF_NUMBERS) return vmax(so_far, x);
    return so_far + x;
}

constexpr bool is_max(int kind) { return kind == 1 || kind == MAX_OF_NUMBERS; }
constexpr bool is_sum(int kind) { return kind == 0 || kind == 3; }

constexpr float fold_start(int kind) {
    return is_max(kind) ? -std::numeric_limits<float>::infinity() : kind == 2 ? std::numeric_limits<float>::infinity() : 0.f;
}

// A sum is made in parts of so many additions each: rounding errors grow with the additions that one float has seen.
constexpr int64_t ADDITIONS = 32;

// Operations on columns see them a few vectors at a time, from column i on: f(i, vectors, elements). As outputs are no inputs there,
// the last vector may lie over the one before; fewer columns than a vector holds come as `elements` below W.
template <int T, class F>
MMRT_INLINE void each_columns(int64_t n, F f) {
    int64_t i = 0;
    for (; i + T * W <= n; i += T * W) f(i, Code<T>(), W);
    for (; i + W <= n; i += W) f(i, Code<1>(), W);
    if (i < n) n >= W ? f(n - W, Code<1>(), W) : f(i, Code<1>(), n - i);
}

// sum[j] = fold of at(r, j) over r < length
template <int KIND, int T, class F>
MMRT_INLINE void fold_rows(V (&sum)[T], int64_t length, F at) {
    for (int64_t r = 0; r < length;) {
        const int64_t end = is_sum(KIND) ? std::min(length, r + ADDITIONS) : length;
        V part[T];
        for (int j = 0; j < T; ++j) part[j] = splat(fold_start(KIND));
        for (; r < end; ++r)
            for (int j = 0; j < T; ++j) part[j] = fold<KIND>(part[j], at(r, j));
        for (int j = 0; j < T; ++j) sum[j] = is_sum(KIND) ? sum[j] + part[j] : fold<KIND>(sum[j], part[j]);
    }
}

template <int KIND>
MMRT_INLINE void reduce_columns(const float* x, int64_t row, int64_t length, float* y, int64_t n, float scale) {
    each_columns<4>(n, [&](int64_t i, auto vectors, int64_t elements) {
        constexpr int T = decltype(vectors)::value;
        V sum[T];
        for (int j = 0; j < T; ++j) sum[j] = splat(fold_start(KIND));
        fold_rows<KIND>(sum, length, [&](int64_t r, int j) { return load_some(x + r * row + i + j * W, elements); });
        for (int j = 0; j < T; ++j) {
            if (KIND == 3) sum[j] = vsqrt(sum[j]);
            if (KIND == 0) sum[j] = sum[j] * splat(scale);
            store_some(y + i + j * W, sum[j], elements);
        }
    });
}

void reduce(int kind, const float* x, int64_t row, int64_t length, float* y, int64_t n, float scale) {
    switch (Reduction(kind)) {
#define REDUCTION(number, name) \
    case Reduction::name: return reduce_columns<number>(x, row, length, y, n, scale);
#include "operations.inc"
    }
}

// Four sums: one would wait for each addition, and loses more digits.
template <int KIND>
MMRT_INLINE float fold_row(const float* x, int64_t n) {
    V sum[4];
    for (int j = 0; j < 4; ++j) sum[j] = splat(fold_start(KIND));
    const int64_t turns = n / (4 * W);
    fold_rows<KIND>(sum, turns, [&](int64_t r, int j) { return load(x + (4 * r + j) * W); });
    int64_t i = turns * 4 * W;
    for (; i + W <= n; i += W) sum[0] = fold<KIND>(sum[0], load(x + i));
    const V all = is_sum(KIND) ? (sum[0] + sum[1]) + (sum[2] + sum[3]) : fold<KIND>(fold<KIND>(sum[0], sum[1]), fold<KIND>(sum[2], sum[3]));
    float out = is_max(KIND) ? vmax_of(all) : KIND == 2 ? -vmax_of(-all) : vsum(all);
    for (; i < n; ++i) {
        const float v = x[i];
        out = is_max(KIND) ? (v > out || v != v ? v : out) : KIND == 2 ? (v < out || v != v ? v : out) : KIND == 3 ? out + v * v : out + v;
    }
    return out;
}

// The plain sum, maximum, minimum or sum of squares of n elements: sqrt and scale are the caller's.
float reduce_row(int kind, const float* x, int64_t n) {
    switch (Reduction(kind)) {
#define REDUCTION(number, name) \
    case Reduction::name: return fold_row<number>(x, n);
#include "operations.inc"
    }
    __builtin_trap();  // the reader of files lets no other pass
}

// Columns of a softmax: maximum, exponentials and their sum, quotient.
void softmax(const float* x, int64_t x_row, float* y, int64_t y_row, int64_t length, int64_t n) {
    each_columns<2>(n, [&](int64_t i, auto vectors, int64_t elements) {
        constexpr int T = decltype(vectors)::value;
        V most[T], sum[T] = {};
        for (int j = 0; j < T; ++j) most[j] = splat(fold_start(1));
        for (int64_t r = 0; r < length; ++r)
            for (int j = 0; j < T; ++j) most[j] = vmax(most[j], load_some(x + r * x_row + i + j * W, elements));
        for (int64_t r = 0; r < length; ++r)
            for (int j = 0; j < T; ++j) {
                const V e = vexp(load_some(x + r * x_row + i + j * W, elements) - most[j]);
                sum[j] += e;
                store_some(y + r * y_row + i + j * W, e, elements);
            }
        for (int j = 0; j < T; ++j) sum[j] = splat(1.f) / sum[j];
        for (int64_t r = 0; r < length; ++r)
            for (int j = 0; j < T; ++j) {
                float* at = y + r * y_row + i + j * W;
                store_some(at, load_some(at, elements) * sum[j], elements);
            }
    });
}

void softmax_row(const float* x, float* y, int64_t n) {
    const V most = splat(fold_row<MAX_OF_NUMBERS>(x, n));
    map(x, y, n, [&](V v) { return vexp(v - most); });
    const float inverse = 1.f / reduce_row(0, y, n);
    map(y, y, n, [&](V v) { return v * inverse; });
}

// sum[j] and squares[j]: of at(r, j) - mean[j] over r < length.
template <int T, class F>
MMRT_INLINE void sums_around(const V (&mean)[T], V (&sum)[T], V (&squares)[T], int64_t length, F at) {
    for (int64_t r = 0; r < length;) {
        const int64_t end = std::min(length, r + ADDITIONS);
        V part[T] = {}, square[T] = {};
        for (; r < end; ++r)
            for (int j = 0; j < T; ++j) {
                const V d = at(r, j) - mean[j];
                part[j] += d;
                square[j] += d * d;
            }
        for (int j = 0; j < T; ++j) sum[j] += part[j], squares[j] += square[j];
    }
}

// Of numbers far from 0 a mean is known to few digits, so what is left of it in x - mean is taken away too: with `left`, the mean of
// x - mean, the variance is the mean of (x - mean)^2 less left^2 (Chan, Golub and LeVeque 1983, the corrected two-pass algorithm).
// Four vectors of columns at a time share the broadcast of gain and bias.
void norm(const float* x, int64_t x_row, float* y, int64_t y_row, int64_t length, int64_t n, float eps, const float* gain, const float* bias) {
    const V share = splat(1.f / float(length));
    each_columns<4>(n, [&](int64_t i, auto vectors, int64_t elements) __attribute__((always_inline)) {  // so that whole vectors are not asked about
        constexpr int T = decltype(vectors)::value;
        V mean[T] = {}, left[T] = {}, squares[T] = {}, inverse[T], start[T];
        auto at = [&](int64_t r, int j) { return load_some(x + r * x_row + i + j * W, elements); };
        fold_rows<0>(mean, length, at);
        for (int j = 0; j < T; ++j) mean[j] = mean[j] * share;
        sums_around(mean, left, squares, length, at);
        for (int j = 0; j < T; ++j) {
            left[j] = left[j] * share;
            inverse[j] = splat(1.f) / vsqrt(vmax(splat(0.f), squares[j] * share - left[j] * left[j]) + splat(eps));
            start[j] = -left[j] * inverse[j];
        }
        for (int64_t r = 0; r < length; ++r) {
            const V g = splat(gain ? gain[r] : 1.f), b = splat(bias ? bias[r] : 0.f);
            for (int j = 0; j < T; ++j) store_some(y + r * y_row + i + j * W, ((at(r, j) - mean[j]) * inverse[j] + start[j]) * g + b, elements);
        }
    });
}

void norm_row(const float* x, float* y, int64_t n, float eps, const float* gain, const float* bias) {
    const float mean = reduce_row(0, x, n) / float(n);
    const V means[4] = {splat(mean), splat(mean), splat(mean), splat(mean)};
    V sums[4] = {}, products[4] = {};
    const int64_t turns = n / (4 * W);
    sums_around(means, sums, products, turns, [&](int64_t r, int j) { return load(x + (4 * r + j) * W); });
    int64_t i = turns * 4 * W;
    for (; i + W <= n; i += W) {
        const V d = load(x + i) - splat(mean);
        sums[0] += d, products[0] += d * d;
    }
    float sum = vsum((sums[0] + sums[1]) + (sums[2] + sums[3])), squares = vsum((products[0] + products[1]) + (products[2] + products[3]));
    for (; i < n; ++i) sum += x[i] - mean, squares += (x[i] - mean) * (x[i] - mean);
    const float left = sum / float(n), variance = squares / float(n) - left * left;
    const V inverse = splat(1.f / std::sqrt((variance < 0 ? 0 : variance) + eps)), start = splat(-left) * inverse;
    each_columns<4>(n, [&](int64_t at, auto vectors, int64_t elements) __attribute__((always_inline)) {
        for (int64_t k = at; k < at + decltype(vectors)::value * W; k += W) {
            V v = (load_some(x + k, elements) - splat(mean)) * inverse + start;
            if (gain) v = v * load_some(gain + k, elements);
            if (bias) v = v + load_some(bias + k, elements);
            store_some(y + k, v, elements);
        }
    });
}

// 0 times a finite number is 0, and NaN times anything else.
bool all_finite(const float* x, int64_t n) {
    V sum[4] = {};
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W)
        for (int j = 0; j < 4; ++j) sum[j] += load(x + i + j * W) * 0.f;
    for (; i < n; i += W) sum[0] += load_some(x + i, n - i) * 0.f;
    return vsum((sum[0] + sum[1]) + (sum[2] + sum[3])) == 0;
}

}  // namespace
}  // namespace mmrt
