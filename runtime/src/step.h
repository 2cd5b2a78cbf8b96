// What the plan's operations become: a Step has a number of independent items, which threads take in any order.
// An item computes the same bits whoever runs it, so the result does not depend on the number of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "operations.h"

namespace mmrt {

struct Step {
    std::string name, op, kernel;      // node, operation, and what runs it, such as "sparse avx2"; the first two are the model's to fill in
    double macs = 0, needed_macs = 0;  // of the dense layer, and without its zeros
    double done_macs = 0;              // that the kernel computes: all of them, or those whose zeros it does not skip
    double sparse_below = 0;           // share of weights (int8: blocks of 1x4) that are not zero, under which a kernel that skips zeros is taken; 0: never
    double cost = 0;                   // cost.h's, to compare with another kernel's for the same step; 0: it knows none
    int items = 1;
    std::function<void(int item, float* arena)> run;
    // Where zero weights were left out: makes NaN after all items what they times NaN or infinity would have. For runs whose inputs have such.
    std::function<void(float* arena)> add_zeros;
    std::shared_ptr<std::atomic<bool>> lost_nan;  // set by an item that has made an integer of NaN: floats are what such a step takes
};

struct Kernels;  // kernels.h: one ISA's functions

// make_linear, make_depthwise ...: `threads` will share its items, which is nothing to the result.
#define OPERATION(number, NAME, name, Desc) Step make_##name(const Desc&, const Kernels&, int threads = 1);
#include "operations.inc"

// With the halo of y, by the items that write y.
Step make_linear(const LinearDesc&, const Kernels&, int threads, const HaloDesc*);
Step make_qlinear(const QLinearDesc&, const Kernels&, int threads, const HaloDesc*);

}  // namespace mmrt
