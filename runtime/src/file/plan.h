// Reads a .mmrt file and checks all of it before anything runs (FORMAT.md).
#pragma once

#include <string>
#include <vector>

#include "container.h"
#include "operations.h"

namespace mmrt {

constexpr int64_t SLACK = 64;  // elements that the arena has beyond its end, and before its start

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

// Only weights of LINEAR and QLINEAR share the file's memory. FormatError.
Plan read_plan(const Bytes& file);

}  // namespace mmrt
