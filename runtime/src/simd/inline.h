// What the headers of the instruction sets are written with.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels.h"
#include "unroll.h"

#define MMRT_INLINE static inline __attribute__((always_inline))

namespace mmrt {
namespace {

template <class To, class From>
MMRT_INLINE To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

template <int CODE>
struct Code {
    static constexpr int value = CODE;
};

// Calls f(Code<n>()) for the constant, of 1 to MOST, that equals n.
template <int MOST, int N = 1, class F>
MMRT_INLINE void with_count(int n, F f) {
    if constexpr (N < MOST)
        if (n > N) return with_count<MOST, N + 1>(n, f);
    f(Code<N>());
}

// To the nearest integer, ties to even, of numbers below 2^22: there a float of 1.5 * 2^23 has no digit left behind the point.
constexpr float WHOLE = 12582912.f;

}  // namespace
}  // namespace mmrt
