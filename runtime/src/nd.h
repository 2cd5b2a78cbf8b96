// The operations on strided views of any rank: COPY, UNARY, BINARY, REDUCE, SOFTMAX, NORM.
#pragma once

#include "kernels.h"

namespace mmrt {

// Between a view and a dense row-major buffer of its shape: the caller's inputs and outputs.
void read_view(const View& view, const float* arena, float* out);
void write_view(const View& view, float* arena, const float* in);

}  // namespace mmrt
