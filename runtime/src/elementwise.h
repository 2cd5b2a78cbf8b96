// Elementwise operations, reductions, softmax and normalization, written once over V. Included by the isa_*.cc files.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "vector.h"

namespace mmrt {
namespace {

// y[i] = f(x[i]) for n elements, a whole vector at a time; the tail goes through a buffer.
template <class F>
MMRT_INLINE void map(const float* x, float* y, int64_t n, F f) {
    int64_t i = 0;
    for (; i + W <= n; i += W) store(y + i, f(load(x + i)));
    if (i < n) store_part(y + i, f(load_part(x + i, n - i)), n - i);
}

void unary(const Act& act, const float* x, float* y, int64_t n) {
    with_activation(act.code, [&](auto code) { map(x, y, n, [&](V v) { return activate<decltype(code)::value>(v, act.a, act.b); }); });
}

template <class F>
MMRT_INLINE void map2(const float* a, int a_step, const float* b, int b_step, float* y, int64_t n, F f) {
    const V a0 = splat(a[0]), b0 = splat(b[0]);
    int64_t i = 0;
    for (; i + W <= n; i += W) store(y + i, f(a_step ? load(a + i) : a0, b_step ? load(b + i) : b0));
    if (i < n) store_part(y + i, f(a_step ? load_part(a + i, n - i) : a0, b_step ? load_part(b + i, n - i) : b0), n - i);
}

MMRT_INLINE V vpow(V a, V b) {
    float x[W], y[W];
    store(x, a);
    store(y, b);
    for (int i = 0; i < W; ++i) x[i] = powf(x[i], y[i]);
    return load(x);
}

void binary(int fn, const Act& act, const float* a, int a_step, const float* b, int b_step, float* y, int64_t n) {
    if (n <= 0) return;
    switch (fn) {
        case 0: map2(a, a_step, b, b_step, y, n, [](V p, V q) { return p + q; }); break;
        case 1: map2(a, a_step, b, b_step, y, n, [](V p, V q) { return p - q; }); break;
        case 2: map2(a, a_step, b, b_step, y, n, [](V p, V q) { return p * q; }); break;
        case 3: map2(a, a_step, b, b_step, y, n, [](V p, V q) { return p / q; }); break;
        case 4: map2(a, a_step, b, b_step, y, n, [](V p, V q) { return vmax(p, q); }); break;
        case 5: map2(a, a_step, b, b_step, y, n, [](V p, V q) { return vmin(p, q); }); break;
        case 6: map2(a, a_step, b, b_step, y, n, [](V p, V q) { return vpow(p, q); }); break;
    }
    if (act.code) unary(act, y, y, n);
}

// REDUCE's kinds: 0 sum, 1 max, 2 min, 3 sqrt of the sum of squares.
template <int KIND>
MMRT_INLINE V fold(V so_far, V x) {
    if (KIND == 1) return vmax(so_far, x);
    if (KIND == 2) return vmin(so_far, x);
    if (KIND == 3) return so_far + x * x;
    return so_far + x;
}

constexpr float fold_start(int kind) {
    return kind == 1 ? -std::numeric_limits<float>::infinity() : kind == 2 ? std::numeric_limits<float>::infinity() : 0.f;
}

template <int KIND>
MMRT_INLINE void reduce_columns(const float* x, int64_t row, int64_t length, float* y, int64_t n, float scale) {
    for (int64_t i = 0; i < n; i += W) {
        const int64_t take = std::min<int64_t>(W, n - i);
        V sum = splat(fold_start(KIND));
        for (int64_t r = 0; r < length; ++r) sum = fold<KIND>(sum, take == W ? load(x + r * row + i) : load_part(x + r * row + i, take));
        if (KIND == 3) sum = vsqrt(sum);
        if (KIND == 0) sum = sum * scale;
        if (take == W) store(y + i, sum);
        else store_part(y + i, sum, take);
    }
}

void reduce(int kind, const float* x, int64_t row, int64_t length, float* y, int64_t n, float scale) {
    switch (kind) {
        case 1: return reduce_columns<1>(x, row, length, y, n, scale);
        case 2: return reduce_columns<2>(x, row, length, y, n, scale);
        case 3: return reduce_columns<3>(x, row, length, y, n, scale);
        default: return reduce_columns<0>(x, row, length, y, n, scale);
    }
}

// The plain sum, maximum, minimum or sum of squares of n elements: sqrt and scale are the caller's.
float reduce_row(int kind, const float* x, int64_t n) {
    V sum = splat(fold_start(kind));
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        const V v = load(x + i);
        sum = kind == 1 ? fold<1>(sum, v) : kind == 2 ? fold<2>(sum, v) : kind == 3 ? fold<3>(sum, v) : fold<0>(sum, v);
    }
    float out = kind == 1 ? vmax_of(sum) : kind == 2 ? -vmax_of(-sum) : vsum(sum);
    for (; i < n; ++i) out = kind == 1 ? std::max(out, x[i]) : kind == 2 ? std::min(out, x[i]) : kind == 3 ? out + x[i] * x[i] : out + x[i];
    return out;
}

// Columns of a softmax: maximum, exponentials and their sum, quotient. C columns of vectors at a time stay in L1.
void softmax(const float* x, int64_t x_row, float* y, int64_t y_row, int64_t length, int64_t n) {
    for (int64_t i = 0; i < n; i += W) {
        const int64_t take = std::min<int64_t>(W, n - i);
        auto get = [&](const float* p) { return take == W ? load(p) : load_part(p, take); };
        auto put = [&](float* p, V v) {
            if (take == W) store(p, v);
            else store_part(p, v, take);
        };
        V most = splat(fold_start(1)), sum = splat(0.f);
        for (int64_t r = 0; r < length; ++r) most = vmax(most, get(x + r * x_row + i));
        for (int64_t r = 0; r < length; ++r) {
            const V e = vexp(get(x + r * x_row + i) - most);
            sum += e;
            put(y + r * y_row + i, e);
        }
        const V inverse = splat(1.f) / sum;
        for (int64_t r = 0; r < length; ++r) put(y + r * y_row + i, get(y + r * y_row + i) * inverse);
    }
}

void softmax_row(const float* x, float* y, int64_t n) {
    const V most = splat(reduce_row(1, x, n));
    map(x, y, n, [&](V v) { return vexp(v - most); });
    const float inverse = 1.f / reduce_row(0, y, n);
    map(y, y, n, [&](V v) { return v * inverse; });
}

// Four vectors of columns at a time share the broadcast of gain and bias.
template <int T>
MMRT_INLINE void norm_columns(const float* x, int64_t x_row, float* y, int64_t y_row, int64_t length, float eps, const float* gain,
                              const float* bias) {
    V sum[T] = {}, squares[T] = {};
    for (int64_t r = 0; r < length; ++r)
        for (int j = 0; j < T; ++j) sum[j] += load(x + r * x_row + j * W);
    for (int j = 0; j < T; ++j) sum[j] = sum[j] * (1.f / float(length));
    for (int64_t r = 0; r < length; ++r)
        for (int j = 0; j < T; ++j) {
            const V d = load(x + r * x_row + j * W) - sum[j];
            squares[j] += d * d;
        }
    for (int j = 0; j < T; ++j) squares[j] = splat(1.f) / vsqrt(squares[j] * (1.f / float(length)) + splat(eps));
    for (int64_t r = 0; r < length; ++r) {
        const V g = splat(gain ? gain[r] : 1.f), b = splat(bias ? bias[r] : 0.f);
        for (int j = 0; j < T; ++j) store(y + r * y_row + j * W, (load(x + r * x_row + j * W) - sum[j]) * squares[j] * g + b);
    }
}

void norm(const float* x, int64_t x_row, float* y, int64_t y_row, int64_t length, int64_t n, float eps, const float* gain,
          const float* bias) {
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W) norm_columns<4>(x + i, x_row, y + i, y_row, length, eps, gain, bias);
    for (; i + W <= n; i += W) norm_columns<1>(x + i, x_row, y + i, y_row, length, eps, gain, bias);
    for (; i < n; ++i) {  // the last columns one by one
        double sum = 0, squares = 0;
        for (int64_t r = 0; r < length; ++r) sum += x[r * x_row + i];
        const float mean = float(sum / double(length));
        for (int64_t r = 0; r < length; ++r) squares += double(x[r * x_row + i] - mean) * (x[r * x_row + i] - mean);
        const float inverse = 1.f / std::sqrt(float(squares / double(length)) + eps);
        for (int64_t r = 0; r < length; ++r)
            y[r * y_row + i] = (x[r * x_row + i] - mean) * inverse * (gain ? gain[r] : 1.f) + (bias ? bias[r] : 0.f);
    }
}

void norm_row(const float* x, float* y, int64_t n, float eps, const float* gain, const float* bias) {
    const float mean = reduce_row(0, x, n) / float(n);
    map(x, y, n, [&](V v) { return v - splat(mean); });
    const float inverse = 1.f / std::sqrt(reduce_row(3, y, n) / float(n) + eps);
    map(y, y, n, [&](V v) { return v * inverse; });
    if (gain) map2(y, 1, gain, 1, y, n, [](V p, V q) { return p * q; });
    if (bias) map2(y, 1, bias, 1, y, n, [](V p, V q) { return p + q; });
}

void copy_stride_2(const float* x, float* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i] = x[2 * i];  // the compiler makes shuffles of it
}

}  // namespace
}  // namespace mmrt
