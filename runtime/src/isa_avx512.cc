#define MMRT_SIMD "simd/avx512.h"
#include "kernels/all.h"

constexpr mmrt::Kernels mmrt::kernels_avx512 = every_kernel("avx512", AVX512F | AVX2 | FMA);
