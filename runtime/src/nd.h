// The operations on strided views of any rank: COPY, UNARY, BINARY, REDUCE, SOFTMAX, NORM.
#pragma once

#include "kernels.h"
#include "plan.h"

namespace mmrt {

Step make_copy(const CopyDesc&, const Kernels&);
Step make_unary(const UnaryDesc&, const Kernels&);
Step make_binary(const BinaryDesc&, const Kernels&);
Step make_reduce(const ReduceDesc&, const Kernels&);
Step make_softmax(const SoftmaxDesc&, const Kernels&);
Step make_norm(const NormDesc&, const Kernels&);

// Between a view and a dense row-major buffer of its shape: the caller's inputs and outputs.
void read_view(const View& view, const float* arena, float* out);
void write_view(const View& view, float* arena, const float* in);

}  // namespace mmrt
