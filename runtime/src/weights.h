// Reads the weights of a LINEAR row by row, whatever their encoding (FORMAT.md).
#pragma once

#include "operations.h"

namespace mmrt {

class RowReader {
  public:
    RowReader(const Weights& weights, int64_t rows, int64_t columns);
    void next(float* row);  // expands the next row, zeros included
    void skip(int64_t rows);

  private:
    float value(int64_t index) const;
    Weights weights_;
    const uint8_t* values_;  // after the bitmask
    int64_t columns_, bit_ = 0, value_ = 0;
};

int64_t bitmask_bytes(int64_t elements);  // with its padding to a multiple of 64 bytes
int64_t count_nonzeros(const Weights& weights, int64_t elements);

}  // namespace mmrt
