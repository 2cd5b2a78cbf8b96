// All kernels, written once, for one instruction set. Included by the isa_*.cc files, which are compiled for it.
#pragma once

#include "columns.h"
#include "copy.h"
#include "elementwise.h"
#include "limits.h"
#include "linear.h"
#include "matmul.h"
#include "q_depthwise.h"
#include "q_elementwise.h"
#include "q_linear.h"
#include "q_matmul.h"
#include "q_matvec.h"
#include "reduce.h"
#include "taps.h"

namespace mmrt {
namespace {

constexpr Kernels every_kernel(const char* name, unsigned needs) {
    return {
        .name = name,
        .needs = needs,
        .width = W,
        .sparse = SPARSE,
        .quads = QUADS,
        .dense = DENSE,
        .columns = W >= 8 ? COLUMNS : ColumnsKernel{},
        .taps = taps,
        .matmul = matmul,
        .matvec = matvec,
        .copy = copy_stretches,
        .unary = unary,
        .binary = binary,
        .reduce = reduce,
        .softmax = softmax,
        .norm = norm,
        .reduce_row = reduce_row,
        .softmax_row = softmax_row,
        .norm_row = norm_row,
        .all_finite = all_finite,
        .qlinear = QLINEAR,
        .qdense = QDENSE,
        .qmatvec = QMATVEC,
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
}

}  // namespace
}  // namespace mmrt
