// The little that the tests share: counting, and numbers that are the same everywhere.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace check {

inline int passed = 0, failed = 0, skipped = 0;

inline void that(bool ok, const std::string& what) {
    if (ok) {
        ++passed;
    } else if (++failed <= 20) {
        std::printf("FAILED %s\n", what.c_str());
    }
}

// |got - want| <= 4 epsilons for each of the terms summed, whose absolute sum is given.
inline bool near(float got, double want, double absolute_sum) { return std::fabs(got - want) <= 1e-6 + 2e-6 * absolute_sum; }

inline std::vector<uint8_t> as_bytes(const std::vector<float>& values) {
    const uint8_t* first = reinterpret_cast<const uint8_t*>(values.data());
    return {first, first + values.size() * sizeof(float)};
}

struct Random {  // a linear congruential generator: the same numbers on every platform
    uint64_t state;
    explicit Random(uint64_t seed) : state(seed * 2654435761u + 1) {}
    uint32_t next() { return uint32_t((state = state * 6364136223846793005ull + 1442695040888963407ull) >> 33); }
    uint32_t below(uint32_t n) { return next() % n; }
    float uniform() { return float(next() % (1 << 24)) / (1 << 24); }
    float signed_uniform() { return 2 * uniform() - 1; }
};

inline int finish() {
    std::printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed != 0;
}

}  // namespace check
