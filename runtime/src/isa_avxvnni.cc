// Products of bytes and of int16; all else is AVX2's.
#define MMRT_SIMD "simd/avxvnni.h"
#include "kernels/limits.h"
#include "kernels/q_columns.h"
#include "kernels/q_depthwise.h"
#include "kernels/q_linear.h"
#include "kernels/q_matmul.h"

constexpr mmrt::Kernels mmrt::kernels_avxvnni = {
    .name = "avxvnni",
    .needs = AVXVNNI,
    .width = W,
    .builds_on = &kernels_avx2,
    .qlinear = QLINEAR,
    .qdense = QDENSE,
    .qcolumns = QCOLUMNS,
    .qdepthwise = QDEPTHWISE,
    .qmatmul = qmatmul,
    .multiply_adds = multiply_adds,
    .multiply_bytes = multiply_bytes,
    .read_floats = read_floats,
};
