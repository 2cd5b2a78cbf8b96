// AVX-512: sixteen floats, sixteen words.
#pragma once

#include <immintrin.h>

namespace mmrt {
namespace {

constexpr int W = 16;
constexpr int SPARSE_VECTORS = 8, DENSE_ROWS = 8, DENSE_VECTORS = 3;
constexpr int QUAD_VECTORS = 6;
constexpr double QUADS_BELOW = 1.1;
constexpr double SPARSE_BELOW = 0.6, SPARSE_BELOW_TAPS = 0.45;
constexpr bool BY_LANE = false, MAX_KEEPS_NAN = false;

}  // namespace
}  // namespace mmrt

#include "wide.h"

namespace mmrt {
namespace {

MMRT_INLINE V splat(float a) { return (V)_mm512_set1_ps(a); }
MMRT_INLINE V vmax(V a, V b) { return (V)_mm512_max_ps((__m512)a, (__m512)b); }
MMRT_INLINE V vmin(V a, V b) { return (V)_mm512_min_ps((__m512)a, (__m512)b); }
MMRT_INLINE V vmax_nan(V a, V b) { return (V)_mm512_mask_max_ps((__m512)a, _mm512_cmp_ps_mask((__m512)a, (__m512)a, _CMP_ORD_Q), (__m512)a, (__m512)b); }
MMRT_INLINE V vsqrt(V a) { return (V)_mm512_sqrt_ps((__m512)a); }
MMRT_INLINE V vfma(V a, V b, V c) { return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
MMRT_INLINE const float* in_register(const float* p) { return p; }

MMRT_INLINE V load_part(const float* p, int64_t n) { return (V)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p); }
MMRT_INLINE void store_part(float* p, V v, int64_t n) { _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v); }

MMRT_INLINE VI splat_int(int32_t a) { return (VI)_mm512_set1_epi32(a); }
MMRT_INLINE VI to_int(V v) { return (VI)_mm512_cvtps_epi32((__m512)v); }

constexpr int Q_VECTORS = 16;  // half of the registers
constexpr double Q_COPIED = 2;
constexpr int Q_OFFSET = 0;

}  // namespace
}  // namespace mmrt

#include "rounding.h"
