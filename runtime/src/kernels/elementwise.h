// UNARY and BINARY: one element after the other.
#pragma once

#include "simd/functions.h"

namespace mmrt {
namespace {

// y[i] = f(x[i]) for n elements, a whole vector at a time. Where n is no multiple of the width, the last vector lies over the one
// before: it is computed first, as y may be x, and stored last. Less than a vector goes through a buffer, which is slow.
template <class F>
MMRT_INLINE void map(const float* x, float* y, int64_t n, F f) {
    if (n < W) return n > 0 ? store_part(y, f(load_part(x, n)), n) : void();
    const int64_t whole = n / W * W;
    const V last = whole < n ? f(load(x + n - W)) : V{};
    for (int64_t i = 0; i < whole; i += W) store(y + i, f(load(x + i)));
    if (whole < n) store(y + n - W, last);
}

void unary(const Act& act, const float* x, float* y, int64_t n) {
    with_activation(act.code, [&](auto code) { map(x, y, n, [&](V v) { return activate<decltype(code)::value>(v, act.a, act.b); }); });
}

template <class F>
MMRT_INLINE void map2(const float* a, int a_step, const float* b, int b_step, float* y, int64_t n, F f) {
    const V a0 = splat(a[0]), b0 = splat(b[0]);
    if (n < W) return store_part(y, f(a_step ? load_part(a, n) : a0, b_step ? load_part(b, n) : b0), n);
    auto at = [&](int64_t i) { return f(a_step ? load(a + i) : a0, b_step ? load(b + i) : b0); };
    const int64_t whole = n / W * W;
    const V last = whole < n ? at(n - W) : V{};
    for (int64_t i = 0; i < whole; i += W) store(y + i, at(i));
    if (whole < n) store(y + n - W, last);
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
    switch (Binary(fn)) {
        case Binary::add: map2(a, a_step, b, b_step, y, n, [](V p, V q) { return p + q; }); break;
        case Binary::sub: map2(a, a_step, b, b_step, y, n, [](V p, V q) { return p - q; }); break;
        case Binary::mul: map2(a, a_step, b, b_step, y, n, [](V p, V q) { return p * q; }); break;
        case Binary::div: map2(a, a_step, b, b_step, y, n, [](V p, V q) { return p / q; }); break;
        case Binary::max: map2(a, a_step, b, b_step, y, n, [](V p, V q) { return vmax_nan(p, q); }); break;
        case Binary::min: map2(a, a_step, b, b_step, y, n, [](V p, V q) { return vmin_nan(p, q); }); break;
        case Binary::pow: map2(a, a_step, b, b_step, y, n, [](V p, V q) { return vpow(p, q); }); break;
    }
    if (act.code) unary(act, y, y, n);
}

}  // namespace
}  // namespace mmrt
