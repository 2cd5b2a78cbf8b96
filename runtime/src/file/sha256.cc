#include "sha256.h"

#include <cmath>
#include <cstring>

namespace mmrt {
namespace {

struct Constants {
    uint32_t round[64], start[8];
    Constants() {  // fractions of the cube and square roots of the first primes
        int n = 0;
        for (int p = 2; n < 64; ++p) {
            bool prime = true;
            for (int d = 2; d * d <= p; ++d) prime = prime && p % d;
            if (!prime) continue;
            round[n] = fraction(std::cbrt((long double)p));
            if (n < 8) start[n] = fraction(std::sqrt((long double)p));
            ++n;
        }
    }
    static uint32_t fraction(long double x) { return uint32_t((x - std::floor(x)) * 4294967296.0L); }
};

uint32_t turn(uint32_t x, int by) { return x >> by | x << (32 - by); }

void add_block(uint32_t* h, const uint8_t* block, const Constants& constants) {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i) w[i] = uint32_t(block[4 * i]) << 24 | uint32_t(block[4 * i + 1]) << 16 | uint32_t(block[4 * i + 2]) << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; ++i) {
        const uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (turn(a, 7) ^ turn(a, 18) ^ a >> 3) + w[i - 7] + (turn(b, 17) ^ turn(b, 19) ^ b >> 10);
    }
    uint32_t v[8];
    std::memcpy(v, h, sizeof v);
    for (int i = 0; i < 64; i += 8)
        for (int j = 0; j < 8; ++j) {  // the roles move through the words, not the words through the roles: all stay in registers
            const uint32_t a = v[-j & 7], b = v[(1 - j) & 7], c = v[(2 - j) & 7];
            const uint32_t e = v[(4 - j) & 7], f = v[(5 - j) & 7], g = v[(6 - j) & 7];
            uint32_t &d = v[(3 - j) & 7], &last = v[(7 - j) & 7];
            const uint32_t s1 = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25), choice = (e & f) ^ (~e & g);
            const uint32_t t1 = last + s1 + choice + constants.round[i + j] + w[i + j];
            const uint32_t s0 = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22), majority = (a & b) ^ (a & c) ^ (b & c);
            d += t1;
            last = t1 + s0 + majority;
        }
    for (int i = 0; i < 8; ++i) h[i] += v[i];
}

}  // namespace

std::array<uint8_t, 32> sha256(const uint8_t* data, size_t size) {
    static const Constants constants;
    uint32_t h[8];
    std::memcpy(h, constants.start, sizeof h);
    size_t at = 0;
    for (; at + 64 <= size; at += 64) add_block(h, data + at, constants);
    uint8_t tail[128] = {};
    const size_t left = size - at, padded = left < 56 ? 64 : 128;
    if (left) std::memcpy(tail, data + at, left);
    tail[left] = 0x80;
    for (int i = 0; i < 8; ++i) tail[padded - 1 - i] = uint8_t(uint64_t(size) * 8 >> (8 * i));
    for (size_t i = 0; i < padded; i += 64) add_block(h, tail + i, constants);
    std::array<uint8_t, 32> out;
    for (int i = 0; i < 32; ++i) out[i] = uint8_t(h[i / 4] >> (24 - 8 * (i % 4)));
    return out;
}

}  // namespace mmrt
