// What an activation gives, as a plain loop says it: in double, NaN and infinity as IEEE 754 has them.
#pragma once

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "operations.h"

namespace {

using mmrt::Act;
using mmrt::Activation;

double clip(double x, double low, double high) { return x != x ? x : std::min(std::max(x, low), high); }

double reference_act(const Act& act, double x) {
    const double a = act.a, b = act.b, softplus = x > 20 ? x : std::log1p(std::exp(x));
    switch (Activation(act.code)) {
        case Activation::clip: return clip(x, a, b);
        case Activation::leaky: return x < 0 ? a * x : x;
        case Activation::sigmoid: return 1 / (1 + std::exp(-x));
        case Activation::silu: return x / (1 + std::exp(-x));
        case Activation::hardsigmoid: return clip(a * x + b, 0, 1);
        case Activation::hardswish: return x * clip(x / 6 + 0.5, 0, 1);
        case Activation::gelu: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
        case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
        case Activation::tanh: return std::tanh(x);
        case Activation::exp: return std::exp(x);
        case Activation::sqrt: return std::sqrt(x);
        case Activation::reciprocal: return 1 / x;
        case Activation::erf: return std::erf(x);
        case Activation::neg: return -x;
        case Activation::abs: return std::fabs(x);
        case Activation::log: return std::log(x);
        case Activation::softplus: return softplus;
        case Activation::elu: return x < 0 ? a * std::expm1(x) : x;
        case Activation::affine: return a * x + b;
        case Activation::mish: return x * std::tanh(softplus);
        case Activation::rounded: return (clip(std::nearbyint(double(float(x) / act.a)) + b, 0, 255) - b) * a;
        case Activation::none: return x;
    }
    throw std::logic_error("no activation " + std::to_string(act.code));
}

}  // namespace
