// Takes words off the plan and checks them: what the readers of all operations share.
#pragma once

#include <string>
#include <vector>

#include "plan.h"

namespace mmrt {

constexpr int64_t OVER = 16;                // elements that a kernel may read or write past the end of a row
constexpr int64_t MOST = int64_t(1) << 40;  // no product of counts may come near overflow
constexpr int MOST_RANK = 8;

// Of counts above 0: anything above MOST stands for more than is allowed.
inline int64_t product(int64_t a, int64_t b) { return a > MOST / b ? MOST + 1 : a * b; }

// Constants leave it as arrays, which own their memory or a share in the file's: no pointer into the file outlives it.
class Words {
  public:
    Words(const Bytes& plan, const Bytes& data);  // the plan's first word is the arena's size

    int64_t arena() const { return arena_; }
    int64_t left() const { return plan_.size() / 4 - at_; }
    int64_t position() const { return at_; }  // in words
    int32_t word();
    float real();
    int64_t number(const char* what, int64_t low, int64_t high);  // a count or size in [low, high]
    std::string string();

    // A copy of the blob that the next word names; empty for -1 where that is allowed.
    template <class T>
    Array<T> constants(const char* what, int64_t count, bool optional = false) {
        const int32_t unit = word();
        if (unit == -1 && optional) return {};
        return copied<T>(blob(unit, what, count * int64_t(sizeof(T))));
    }
    Bytes blob(int64_t unit, const char* what, int64_t bytes) const;  // shares the file's memory: for weights, which are large

    View view(const char* what);
    View writable(const char* what);  // for results
    Act act();

    // All messages begin with the operation's name.
    void enter(const std::string& name) { name_ = name; }
    [[noreturn]] void refuse(const std::string& what) const;

  private:
    template <class T>
    static Array<T> copied(const Bytes& bytes) {
        std::vector<T> values(size_t(bytes.size()) / sizeof(T));
        if (!values.empty()) std::memcpy(values.data(), bytes.data(), size_t(bytes.size()));
        return values;
    }

    Bytes plan_, data_;
    int64_t at_ = 0, arena_ = 0;
    std::string name_;
};

// ---- rows ----

Rows as_rows(const Words& words, const View& view, const char* what);
Rows checked_rows(const Words& words, const View& view, const char* what);  // that are read in whole vectors
Rows input_rows(Words& words, const char* what);                            // the same
Rows output_rows(Words& words);                                             // y, whose kernels write whole vectors
std::vector<int32_t> read_taps(Words& words, const Rows& x);
bool read_residual(Words& words, const Rows& y, Rows* residual);  // whether there is one
void same_shape(const Words& words, const Rows& x, const Rows& y);

// ---- others ----

void same_dims(const Words& words, const View& a, const View& b, const char* what);
int64_t ones(const Bytes& bits, int64_t count);  // of the first `count` bits
MatmulDesc read_matrices(Words& words);          // without a scale

// read_linear, read_depthwise ...: one of each row.
#define OPERATION(number, NAME, name, Desc) Desc read_##name(Words& words);
#define OPERATION_READ_AS(number, NAME, name, Desc) Desc read_##name(Words& words);
#include "operations.inc"

}  // namespace mmrt
