// HALO: the borders of images, between their lines, ahead of the first and behind the last, that convolutions read.
#pragma once

#include "step.h"

namespace mmrt {

// Halos that follow each other are one step where they set the same value; an item is all halos of some channels, since those of
// one channel may overlap.
bool commute(const HaloDesc&, const HaloDesc&);
Step make_halos(std::vector<HaloDesc> halos);

// Whether the halo is that of rows y, so that whoever writes a part of y can write the part's halo too.
bool is_halo_of(const HaloDesc&, const Rows& y);

// The halo of rows [row, end) at positions [begin, end_position); with the last position also what is behind the line, up to the
// next row's first position.
void fill_halo(const HaloDesc&, float* arena, int row, int end, int64_t begin, int64_t end_position);

}  // namespace mmrt
