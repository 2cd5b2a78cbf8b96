// The file around the plan: a header, and sections with their sha256 (FORMAT.md, File).
#pragma once

#include <cstring>
#include <stdexcept>
#include <string>

#include "array.h"

namespace mmrt {

// The message names the check that failed.
struct FormatError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

[[noreturn]] void refuse(const std::string& what);

template <class T>
T read(const uint8_t* at) {
    T out;
    std::memcpy(&out, at, sizeof out);
    return out;
}

// Maps it; the mapping goes with the last array that has a part in it.
Bytes map_file(const std::string& path);

void check_header(const Bytes& file);
Bytes section(const Bytes& file, const char* name);

}  // namespace mmrt
