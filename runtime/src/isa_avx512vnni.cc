// Products of bytes and of int16, and whole vectors of bytes; all else is AVX-512F's.
#define MMRT_SIMD "simd/avx512vnni.h"
#include "kernels/limits.h"
#include "kernels/q_columns.h"
#include "kernels/q_depthwise.h"
#include "kernels/q_elementwise.h"
#include "kernels/q_linear.h"
#include "kernels/q_matmul.h"

constexpr mmrt::Kernels mmrt::kernels_avx512vnni = {
    .name = "avx512vnni",
    .needs = AVX512VNNI,
    .width = W,
    .builds_on = &kernels_avx512,
    .qlinear = QLINEAR,
    .qdense = QDENSE,
    .qcolumns = QCOLUMNS,
    .qdepthwise = QDEPTHWISE,
    .qmatmul = qmatmul,
    .qmaximum = qmaximum,
    .qtable = qtable,
    .qadd = qadd,
    .quantize = quantize,
    .dequantize = dequantize,
    .multiply_adds = multiply_adds,
    .multiply_bytes = multiply_bytes,
    .read_floats = read_floats,
};
