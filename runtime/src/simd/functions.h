// Functions of a vector, on the words of vector.h: exponentials and activations.
#pragma once

#include "steps.h"

namespace mmrt {
namespace {

// e^x: x = n ln 2 + r with |r| <= ln 2 / 2, Taylor to r^7 (relative error below 2e-7), times 2^n. That comes as 2 e^r times 2^(n - 1), which
// are both floats up to n = 128; clamped to [-87.3, 89.1], the latter factor is 0 at the lower end, below e^-87, and infinite at the
// upper. NaN stays NaN.
MMRT_INLINE V vexp(V x) {
    x = clamped(x, splat(-87.3f), splat(89.1f));
    const float rounder = 12582912.f + 126;  // 1.5 * 2^23: adding it leaves round(.) in the low bits, here the exponent of 2^(n - 1)
    V shifted = x * 1.44269504f + splat(rounder);
    V n = shifted - splat(rounder);
    V r = x - n * 0.693359375f;  // ln 2 in two parts: the first has few bits, so n times it is exact
    r = r + n * 2.12194440e-4f;
    V p = splat(2.f / 5040);  // twice the series
    p = p * r + splat(2.f / 720);
    p = p * r + splat(2.f / 120);
    p = p * r + splat(2.f / 24);
    p = p * r + splat(2.f / 6);
    p = p * r + splat(1.f);
    p = p * r + splat(2.f);
    p = p * r + splat(2.f);
    return p * bits_as<V>(bits_as<VU>(shifted) << 23);  // what lies above the low bits is shifted out
}

MMRT_INLINE V vsigmoid(V x) { return splat(1.f) / (vexp(-x) + splat(1.f)); }

MMRT_INLINE V vtanh(V x) {
    V e = vexp(vabs(x) * -2.f);
    V t = (splat(1.f) - e) / (splat(1.f) + e);
    return select_negative(x, -t, t);
}

// x P(x^2) / Q(x^2) on [-3.8, 3.8], beyond which erf is 1 in float32; P and Q fitted for the least largest error: 3e-7 with the rounding.
MMRT_INLINE V verf(V x) {
    x = clamped(x, splat(-3.8f), splat(3.8f));
    V t = x * x;
    V p = t * 2.1321373e-06f + splat(0.000287999632f);
    p = p * t + splat(0.0036936088f);
    p = p * t + splat(0.0525473244f);
    p = p * t + splat(0.188116044f);
    p = p * t + splat(1.12837911f);
    V q = t * 3.90979185e-05f + splat(0.00115374464f);
    q = q * t + splat(0.014822918f);
    q = q * t + splat(0.113254845f);
    q = q * t + splat(0.500045776f);
    q = q * t + splat(1.f);
    return x * p / q;
}

template <float (*F)(float)>
MMRT_INLINE V each(V v) {  // rare functions: lane by lane
    float part[W];
    store(part, v);
    for (int i = 0; i < W; ++i) part[i] = F(part[i]);
    return load(part);
}

static float scalar_log(float x) { return logf(x); }
static float scalar_softplus(float x) { return x > 20 ? x : log1pf(expf(x)); }
static float scalar_mish(float x) { return x * tanhf(scalar_softplus(x)); }
static float scalar_expm1(float x) { return expm1f(x); }

// FORMAT.md, Activations; NaN stays NaN. CODE is a constant, so that one loop holds one activation.
template <int CODE>
MMRT_INLINE V activate(V x, float a, float b) {
    switch (Activation(CODE)) {
        case Activation::clip: return clamped(x, splat(a), splat(b));
        case Activation::leaky: return select_negative(x, x * a, x);
        case Activation::sigmoid: return vsigmoid(x);
        case Activation::silu: return x * vsigmoid(x);
        case Activation::hardsigmoid: return clamped(x * a + splat(b), splat(0.f), splat(1.f));
        case Activation::hardswish: return x * clamped(x * (1.f / 6) + splat(0.5f), splat(0.f), splat(1.f));
        case Activation::gelu: return x * 0.5f * (splat(1.f) + verf(x * 0.70710678f));
        case Activation::gelu_tanh: return x * 0.5f * (splat(1.f) + vtanh((x + x * x * x * 0.044715f) * 0.79788456f));
        case Activation::tanh: return vtanh(x);
        case Activation::exp: return vexp(x);
        case Activation::sqrt: return vsqrt(x);
        case Activation::reciprocal: return splat(1.f) / x;
        case Activation::erf: return verf(x);
        case Activation::neg: return -x;
        case Activation::abs: return vabs(x);
        case Activation::log: return each<scalar_log>(x);
        case Activation::softplus: return each<scalar_softplus>(x);
        case Activation::elu: return select_negative(x, each<scalar_expm1>(x) * a, x);
        case Activation::affine: return x * a + splat(b);
        case Activation::mish: return each<scalar_mish>(x);
        case Activation::rounded: return steps(x, steps_of(a, -b, 255.f - b)) * a;
        case Activation::none: return x;
    }
    __builtin_unreachable();  // a row of operations.inc that no case has does not compile
}

// Calls f(Code<c>()) for the constant c that equals code.
template <class F>
MMRT_INLINE void with_activation(int code, F f) {
    switch (code) {
#define ACTIVATION(number, name) \
    case number: return f(Code<number>());
#include "operations.inc"
        default: __builtin_trap();  // the reader of files lets no other pass
    }
}

}  // namespace
}  // namespace mmrt
