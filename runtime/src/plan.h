// Reads a .mmrt file and checks all of it before anything runs (FORMAT.md).
#pragma once

#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "halo.h"
#include "quantized.h"
#include "step.h"

namespace mmrt {

struct FormatError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct CopyDesc {
    View dst, src;
};

struct UnaryDesc {
    View dst, src;
    Act act;
};

struct BinaryDesc {
    int fn = 0;
    View dst, a, b;
    Act act;
};

struct ReduceDesc {
    int kind = 0, axes = 0;
    View dst, src;
    float scale = 1;
};

struct SoftmaxDesc {
    View dst, src;
};

struct NormDesc {
    View dst, src;
    float eps = 0;
    const float *gain = nullptr, *bias = nullptr;
};

using OperationDesc = std::variant<LinearDesc, DepthwiseDesc, PoolDesc, HaloDesc, CopyDesc, UnaryDesc, BinaryDesc, ReduceDesc, SoftmaxDesc, NormDesc, MatmulDesc,
                                   QLinearDesc, QDepthwiseDesc, QPoolDesc, QAddDesc, QuantizeDesc, DequantizeDesc, QMeanDesc, QTableDesc, QMatmulDesc>;

struct Operation {
    std::string name;
    OperationDesc desc;
};

struct Port {
    std::string name;
    View view;
};

struct Plan {
    int64_t arena_elements = 0;
    std::vector<Port> inputs, outputs;
    std::vector<Operation> operations;
};

constexpr int64_t SLACK = 64;  // elements that the arena has beyond its end, and before its start

// The plan's pointers into `file` are valid while it is. FormatError names the check that failed.
Plan read_plan(const uint8_t* file, size_t size);

}  // namespace mmrt
