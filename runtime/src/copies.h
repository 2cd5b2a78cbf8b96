// Copies of a panel's inputs in which every tap's line begins at a cache line. A load of a whole cache line from anywhere else reads the cache twice,
// and a sparse layer does little beside loading.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace mmrt {

// Memory of the calling thread, at a cache line; one for each use.
enum class Scratch { SUMS, COPIES, COUNT };
uint32_t* scratch(Scratch use, int64_t elements);

// Whether all taps of all rows begin at a cache line where they lie.
bool are_aligned(const Rows& x, const std::vector<int32_t>& taps, int width);

// Taps that are whole vectors apart share a copy.
class Copies {
  public:
    // of taps, for panels of at most `most` vectors of `width` elements
    Copies(const std::vector<int32_t>& taps, int width, int most);

    int64_t vectors() const { return vectors_; }                   // of one line of inputs with all its copies
    int32_t byte_offset(int64_t line, int tap) const;             // from the first line's begin
    void add_line(int32_t from, std::vector<Stretch>& out) const;  // what to copy of the line that begins `from` elements behind x

    // Copies a panel of so many lines into memory of the calling thread, and tells where that is.
    const uint32_t* make(Pointer<void(const CopyTask&)> copy, const uint32_t* x, const Stretch* stretches, int n, int vectors, int lines) const;

  private:
    int width_, most_;
    int64_t vectors_ = 0;
    std::vector<int64_t> at_;       // of each tap
    std::vector<Stretch> stretches_;  // of a line that begins at x
};

}  // namespace mmrt
