// What the plan's operations become: a Step has a number of independent items, which threads take in any order.
// An item computes the same bits whoever runs it, so the result does not depend on the number of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace mmrt {

struct Act {
    int code = 0;  // FORMAT.md, Activations
    float a = 0, b = 0;
};

// A strided view of the arena (base added at run time) or of constants (pointer in `constant`).
struct View {
    const float* constant = nullptr;
    int64_t offset = 0;  // elements from the start of the arena; unused for constants
    std::vector<int64_t> dims, strides;
};

// Rows of an activation: row c, position p at offset + c * stride + p.
struct Rows {
    int64_t offset = 0, stride = 0;
    int count = 0, positions = 0;
};

struct Weights {
    int encoding = 0;  // 0 dense, 1 bitmask
    int dtype = 0;     // 0 float32, 1 float16
    const uint8_t* data = nullptr;
    int64_t values = 0;
};

struct LinearDesc {
    Rows x, y, residual;
    std::vector<int32_t> taps;
    int groups = 1;
    Weights weights;
    const float* bias = nullptr;  // or null
    bool has_residual = false;
    Act act;
    int kernel = 0;  // 0 choose, 1 dense, 2 sparse
};

struct DepthwiseDesc {
    Rows x, y, residual;
    std::vector<int32_t> taps;
    const float* weights = nullptr;
    const float* bias = nullptr;
    bool has_residual = false;
    Act act;
};

struct PoolDesc {
    Rows x, y;
    std::vector<int32_t> taps;
    int kind = 0;  // 0 max, 1 scaled sum
    float scale = 1;
};

struct MatmulDesc {
    View c, a, b;
    float scale = 1;
};

struct Step {
    std::string name, op, kernel;     // node, operation, and what runs it, such as "sparse avx2"
    double macs = 0, needed_macs = 0;  // of the dense layer, and without its zeros
    int items = 1;
    std::function<void(int item, float* arena)> run;
    // Where zero weights were left out: makes NaN after all items what they times NaN or infinity would have. For runs whose inputs have such.
    std::function<void(float* arena)> add_zeros;
    std::shared_ptr<std::atomic<bool>> lost_nan;  // set by an item that has made an integer of NaN
};

struct HaloDesc;  // halo.h
struct Kernels;   // kernels.h: one ISA's functions

// `threads` will share its items, which is nothing to the result; with the halo of y, by the items that write y.
Step make_linear(const LinearDesc&, const Kernels&, int threads, const HaloDesc* = nullptr);
Step make_depthwise(const DepthwiseDesc&, const Kernels&);
Step make_pool(const PoolDesc&, const Kernels&);
Step make_matmul(const MatmulDesc&, const Kernels&);

}  // namespace mmrt
