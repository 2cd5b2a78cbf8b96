#include "copies.h"

#include <algorithm>
#include <map>
#include <stdexcept>

namespace mmrt {

Copies::Copies(const std::vector<int32_t>& taps, int width, int most) : width_(width), most_(most), at_(taps.size()) {
    struct Bounds {
        int32_t lowest = INT32_MAX, highest = INT32_MIN;
    };
    std::map<int, Bounds> copies;  // by what taps are beyond whole vectors
    auto beyond = [&](int32_t tap) { return (tap % width + width) % width; };
    for (int32_t tap : taps) {
        Bounds& b = copies[beyond(tap)];
        b.lowest = std::min(b.lowest, tap), b.highest = std::max(b.highest, tap);
    }
    for (const auto& [rest, b] : copies) {
        for (size_t t = 0; t < taps.size(); ++t)
            if (beyond(taps[t]) == rest) at_[t] = vectors_ * width + taps[t] - b.lowest;
        stretches_.push_back({b.lowest, (b.highest - b.lowest) / width});
        vectors_ += most + stretches_.back().more;
    }
}

bool are_aligned(const Rows& x, const std::vector<int32_t>& taps, int width) {
    return x.offset % width == 0 && x.stride % width == 0 && std::all_of(taps.begin(), taps.end(), [&](int32_t tap) { return tap % width == 0; });
}

int32_t Copies::byte_offset(int64_t line, int tap) const {
    const int64_t bytes = (line * vectors_ * width_ + at_[tap]) * 4;
    if (bytes > INT32_MAX) throw std::runtime_error("an input of more than 2 GB");
    return int32_t(bytes);
}

void Copies::add_line(int32_t from, std::vector<Stretch>& out) const {
    for (const Stretch& s : stretches_) out.push_back({from + s.from, s.more});
}

const uint32_t* Copies::make(Pointer<void(const CopyTask&)> copy, const uint32_t* x, const Stretch* stretches, int n, int vectors, int lines) const {
    uint32_t* out = scratch(Scratch::COPIES, lines * vectors_ * width_);
    copy({x, stretches, n, vectors, most_, out});
    return out;
}

uint32_t* scratch(Scratch use, int64_t elements) {
    constexpr uintptr_t LINE = 64;
    thread_local std::vector<uint32_t> memory[int(Scratch::COUNT)];
    std::vector<uint32_t>& mine = memory[int(use)];
    if (int64_t(mine.size()) < elements + int64_t(LINE / 4)) mine.resize(size_t(elements) + LINE / 4);
    return reinterpret_cast<uint32_t*>((reinterpret_cast<uintptr_t>(mine.data()) + LINE - 1) / LINE * LINE);
}

}  // namespace mmrt
