// Products of bytes; all else is NEON's.
#define MMRT_SIMD "simd/neon_dotprod.h"
#include "kernels/limits.h"
#include "kernels/q_linear.h"
#include "kernels/q_matvec.h"

constexpr mmrt::Kernels mmrt::kernels_neon_dotprod = {
    .name = "neon_dotprod",
    .needs = DOTPROD,
    .width = W,
    .builds_on = &kernels_neon,
    .qlinear = QLINEAR,
    .qdense = QDENSE,
    .qmatvec = QMATVEC,
    .multiply_adds = multiply_adds,
    .multiply_bytes = multiply_bytes,
    .read_floats = read_floats,
};
