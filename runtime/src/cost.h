// What tells vectors of positions and vectors of outputs apart: the cost of a layer, for each output, in products of one vector. Sums are finished
// and stored besides. Calibrated on Zen 5.
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace mmrt {

enum class Way { CHEAPEST, DENSE, SPARSE, COLUMNS };

// MMRT_WAY=dense, sparse or columns: every layer that can be computed in this way is, whatever it costs (benchmarks/layer_choice.py compares).
inline Way asked_way() {
    const char* asked = std::getenv("MMRT_WAY");
    const std::string name = asked ? asked : "";
    if (name.empty()) return Way::CHEAPEST;
    if (name == "dense") return Way::DENSE;
    if (name == "sparse") return Way::SPARSE;
    if (name == "columns") return Way::COLUMNS;
    throw std::runtime_error("MMRT_WAY=" + name + " is not known; there are dense, sparse, columns");
}

constexpr double FINISH = 16;  // of a vector of positions

// A panel that skips zeros: what its products cost for each input that it does not skip, if `below` is the density at which panels of WIDE vectors cost
// what dense ones do. `reading` is the part of that which goes into reading a weight, whatever it is multiplied with.
inline double of_input(double below, int vectors, double reading) {
    constexpr double WIDE = 7;
    return (1 + reading / vectors - reading / WIDE) / below;
}

// A dense layer whose weights do not stay in the cache takes at least as long as these take to come, for each input and output, however few positions
// there are.
inline double of_weight(double bytes_of_layer) {
    constexpr double STAYS = 1 << 20;
    return bytes_of_layer > STAYS ? 0.8 : 0;
}

inline double vectors_cost(int positions, int width, double products) { return double((positions + width - 1) / width) * (products + FINISH); }

// rows    outputs of a group; the elements behind them are idle
// finish  of a vector of outputs
inline double columns_cost(int positions, int width, int rows, double products, double finish) {
    const double idle = double((rows + width - 1) / width * width) / rows;
    return double(positions) / width * idle * (products + finish);
}

}  // namespace mmrt
