#define MMRT_SIMD "simd/avx2.h"
#include "kernels/all.h"

constexpr mmrt::Kernels mmrt::kernels_avx2 = every_kernel("avx2", AVX2 | FMA);
