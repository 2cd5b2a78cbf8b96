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
    switch (CODE) {
        case 1: return clamped(x, splat(a), splat(b));
        case 2: return select_negative(x, x * a, x);
        case 3: return vsigmoid(x);
        case 4: return x * vsigmoid(x);
        case 5: return clamped(x * a + splat(b), splat(0.f), splat(1.f));
        case 6: return x * clamped(x * (1.f / 6) + splat(0.5f), splat(0.f), splat(1.f));
        case 7: return x * 0.5f * (splat(1.f) + verf(x * 0.70710678f));
        case 8: return x * 0.5f * (splat(1.f) + vtanh((x + x * x * x * 0.044715f) * 0.79788456f));
        case 9: return vtanh(x);
        case 10: return vexp(x);
        case 11: return vsqrt(x);
        case 12: return splat(1.f) / x;
        case 13: return verf(x);
        case 14: return -x;
        case 15: return vabs(x);
        case 16: return each<scalar_log>(x);
        case 17: return each<scalar_softplus>(x);
        case 18: return select_negative(x, each<scalar_expm1>(x) * a, x);
        case 19: return x * a + splat(b);
        case 20: return each<scalar_mish>(x);
        case 21: return steps(x, steps_of(a, -b, 255.f - b)) * a;
        default: return x;
    }
}

// Calls f(Code<c>()) for the constant c that equals code.
template <class F>
MMRT_INLINE void with_activation(int code, F f) {
    switch (code) {
        case 1: return f(Code<1>());
        case 2: return f(Code<2>());
        case 3: return f(Code<3>());
        case 4: return f(Code<4>());
        case 5: return f(Code<5>());
        case 6: return f(Code<6>());
        case 7: return f(Code<7>());
        case 8: return f(Code<8>());
        case 9: return f(Code<9>());
        case 10: return f(Code<10>());
        case 11: return f(Code<11>());
        case 12: return f(Code<12>());
        case 13: return f(Code<13>());
        case 14: return f(Code<14>());
        case 15: return f(Code<15>());
        case 16: return f(Code<16>());
        case 17: return f(Code<17>());
        case 18: return f(Code<18>());
        case 19: return f(Code<19>());
        case 20: return f(Code<20>());
        case 21: return f(Code<21>());
        default: return f(Code<0>());
    }
}

}  // namespace
}  // namespace mmrt
