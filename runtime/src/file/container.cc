#include "container.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "sha256.h"

namespace mmrt {
namespace {

constexpr char MAGIC[8] = {'M', 'M', 'R', 'T', '\r', '\n', '\x1a', '\n'};
constexpr uint32_t VERSION = 1;
constexpr int64_t HEADER = 64, ROW = 64;
constexpr uint32_t MOST_SECTIONS = 64;

// A fuzzer could not change a byte past this check. The macro is the one that fuzzers define, and nothing else does.
void check_sha([[maybe_unused]] const Bytes& what, [[maybe_unused]] const uint8_t* expected, [[maybe_unused]] const std::string& name) {
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    if (std::memcmp(sha256(what.data(), size_t(what.size())).data(), expected, 32) != 0)
        refuse("the sha256 of " + name + " is not the recorded one: it was damaged, copy it again");
#endif
}

}  // namespace

void refuse(const std::string& what) { throw FormatError("not a usable .mmrt file: " + what); }

Bytes map_file(const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat about{};
    if (fd < 0 || fstat(fd, &about) != 0) {
        const std::string why = std::strerror(errno);
        if (fd >= 0) close(fd);
        throw std::runtime_error(path + ": " + why);
    }
    const size_t size = size_t(about.st_size);
    void* mapped = size ? mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    close(fd);
    if (mapped == MAP_FAILED) refuse("it is empty or no file");
    return {std::shared_ptr<const uint8_t>(static_cast<const uint8_t*>(mapped), [mapped, size](const uint8_t*) { munmap(mapped, size); }), int64_t(size)};
}

void check_header(const Bytes& file) {
    if (file.size() < HEADER || std::memcmp(file.data(), MAGIC, sizeof MAGIC) != 0) refuse("it does not begin with the magic of one");
    const uint32_t version = read<uint32_t>(file.data() + 8), count = read<uint32_t>(file.data() + 12);
    if (version != VERSION) refuse("its version is " + std::to_string(version) + ", this library reads " + std::to_string(VERSION));
    if (const uint64_t said = read<uint64_t>(file.data() + 16); said != uint64_t(file.size()))
        refuse("it has " + std::to_string(file.size()) + " bytes and says " + std::to_string(said) + ": it was cut short, copy it again");
    if (count > MOST_SECTIONS || HEADER + count * ROW > file.size()) refuse("its section table is longer than the file");
    check_sha(file.part(HEADER, count * ROW), file.data() + 24, "the section table");
}

Bytes section(const Bytes& file, const char* name) {
    const uint32_t count = read<uint32_t>(file.data() + 12);
    for (uint32_t i = 0; i < count; ++i) {
        const uint8_t* row = file.data() + HEADER + i * ROW;
        if (std::memcmp(row, name, 4) != 0) continue;
        const uint64_t offset = read<uint64_t>(row + 8), bytes = read<uint64_t>(row + 16), size = uint64_t(file.size());
        if (offset % 64 || offset > size || bytes > size - offset) refuse(std::string("section ") + name + " lies outside the file");
        const Bytes found = file.part(int64_t(offset), int64_t(bytes));
        check_sha(found, row + 24, std::string("section ") + name);
        return found;
    }
    refuse(std::string("there is no section ") + name);
}

}  // namespace mmrt
