#define MMRT_SIMD "simd/neon.h"
#include "kernels/all.h"

constexpr mmrt::Kernels mmrt::kernels_neon = every_kernel("neon", NEON);
