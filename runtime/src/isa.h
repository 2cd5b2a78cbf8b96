// Body of an isa_*.cc file: the kernels of this ISA under one name. MMRT_SET, MMRT_NEEDS, MMRT_WIDTH and MMRT_DENSE_ROWS come from that file.
#pragma once

#include "kernels.h"
#include "vector.h"
#include "elementwise.h"
#include "limits.h"
#include "linear_kernels.h"
#include "quantized_kernels.h"
#include "quantized_depthwise.h"
#include "quantized_matmul.h"

#define MMRT_STRING2(x) #x
#define MMRT_STRING(x) MMRT_STRING2(x)
#define MMRT_JOIN2(a, b) a##b
#define MMRT_JOIN(a, b) MMRT_JOIN2(a, b)

namespace mmrt {

extern const Kernels MMRT_JOIN(kernels_, MMRT_SET);
const Kernels MMRT_JOIN(kernels_, MMRT_SET) = {
    MMRT_STRING(MMRT_SET), MMRT_NEEDS, W, MMRT_SPARSE_VECTORS, MMRT_DENSE_ROWS, MMRT_DENSE_VECTORS, MMRT_SPARSE_BELOW,
    sparse, dense, gather_rows, taps, matmul, matvec,
    unary, binary, reduce, softmax, norm, all_finite, reduce_row, softmax_row, norm_row,
    Q_VECTORS, Q_DENSE_VECTORS, Q_DENSE_FROM, Q_OFFSET, Q_PAIRED, Q_TAPS, Q_ALONE, qlinear<>, qdense<>, qmatvec, qdepthwise, qmaximum, qtable, qmatmul, qadd, quantize, dequantize,
    multiply_adds, read_floats,
};

}  // namespace mmrt
