// What tells vectors of positions and vectors of outputs apart: the cost of a layer, for each output, in products of one vector. Sums are finished
// and stored besides. Calibrated on Zen 5.
#pragma once

namespace mmrt {

constexpr double FINISH = 16;  // of a vector of positions

// A panel that skips zeros: what its products cost for each input that it does not skip, if `below` is the density at which wide panels cost what
// dense ones do. With few vectors a weight is all there is to read.
inline double of_input(double below, int vectors) { return (0.88 + 0.85 / vectors) / below; }

inline double vectors_cost(int positions, int width, double products) { return double((positions + width - 1) / width) * (products + FINISH); }

// rows    outputs of a group; the elements behind them are idle
// finish  of a vector of outputs
inline double columns_cost(int positions, int width, int rows, double products, double finish) {
    const double idle = double((rows + width - 1) / width * width) / rows;
    return double(positions) / width * idle * (products + finish);
}

}  // namespace mmrt
