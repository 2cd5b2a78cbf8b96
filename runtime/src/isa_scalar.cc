#define MMRT_SIMD "simd/scalar.h"
#include "kernels/all.h"

constexpr mmrt::Kernels mmrt::kernels_scalar = every_kernel("scalar", 0);
