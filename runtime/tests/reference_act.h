// What an activation gives, as a plain loop says it: in double, NaN and infinity as IEEE 754 has them.
#pragma once

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "step.h"

namespace {

using mmrt::Act;

double clip(double x, double low, double high) { return x != x ? x : std::min(std::max(x, low), high); }

double reference_act(const Act& act, double x) {
    const double a = act.a, b = act.b, softplus = x > 20 ? x : std::log1p(std::exp(x));
    switch (act.code) {
        case 1: return clip(x, a, b);
        case 2: return x < 0 ? a * x : x;
        case 3: return 1 / (1 + std::exp(-x));
        case 4: return x / (1 + std::exp(-x));
        case 5: return clip(a * x + b, 0, 1);
        case 6: return x * clip(x / 6 + 0.5, 0, 1);
        case 7: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
        case 8: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
        case 9: return std::tanh(x);
        case 10: return std::exp(x);
        case 11: return std::sqrt(x);
        case 12: return 1 / x;
        case 13: return std::erf(x);
        case 14: return -x;
        case 15: return std::fabs(x);
        case 16: return std::log(x);
        case 17: return softplus;
        case 18: return x < 0 ? a * std::expm1(x) : x;
        case 19: return a * x + b;
        case 20: return x * std::tanh(softplus);
        case 21: return (clip(std::nearbyint(double(float(x) / act.a)) + b, 0, 255) - b) * a;
        case 0: return x;
        default: throw std::logic_error("no activation " + std::to_string(act.code));
    }
}

}  // namespace
