// What an operation of the plan says (FORMAT.md, Operations): a struct for each row of operations.inc.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "array.h"

namespace mmrt {

enum class Activation : int32_t {
#define ACTIVATION(number, name) name = number,
#include "operations.inc"
};

enum class Binary : int32_t {
#define BINARY_FN(number, name) name = number,
#include "operations.inc"
};

enum class Reduction : int32_t {
#define REDUCTION(number, name) name = number,
#include "operations.inc"
};

enum class Pooling : int32_t {
#define POOLING(number, name) name = number,
#include "operations.inc"
};

// How many there are: numbers below that are known.
constexpr int ACTIVATIONS = 0
#define ACTIVATION(number, name) +1
#include "operations.inc"
    ;
constexpr int BINARIES = 0
#define BINARY_FN(number, name) +1
#include "operations.inc"
    ;
constexpr int REDUCTIONS = 0
#define REDUCTION(number, name) +1
#include "operations.inc"
    ;
constexpr int POOLINGS = 0
#define POOLING(number, name) +1
#include "operations.inc"
    ;

struct Act {
    int code = 0;  // an Activation
    float a = 0, b = 0;
};

// A strided view of the arena or of constants; base() says where it begins.
struct View {
    Array<float> constant;  // or empty
    int64_t offset = 0;     // elements from the start of the arena; unused for constants
    std::vector<int64_t> dims, strides;
};

inline const float* base(const View& view, const float* arena) { return view.constant.empty() ? arena + view.offset : view.constant.data(); }

// Rows of an activation: row c, position p at offset + c * stride + p.
struct Rows {
    int64_t offset = 0, stride = 0;
    int count = 0, positions = 0;
};

// One position, its channels side by side: exactly `count` elements are written, where other rows are written in whole vectors.
inline bool is_column(const Rows& y) { return y.positions == 1 && y.stride == 1; }

// They may share the file's memory, which stays as long as they do: steps keep what they pack of them, and not these.
struct Weights {
    int encoding = 0;  // 0 dense, 1 bitmask
    int dtype = 0;     // 0 float32, 1 float16
    Bytes data;
    int64_t values = 0;
};

struct LinearDesc {
    Rows x, y, residual;
    std::vector<int32_t> taps;
    int groups = 1;
    Weights weights;
    Array<float> bias;  // or empty
    bool has_residual = false;
    Act act;
    int kernel = 0;  // 0 choose, 1 dense, 2 sparse
};

struct DepthwiseDesc {
    Rows x, y, residual;
    std::vector<int32_t> taps;
    Array<float> weights;
    Array<float> bias;  // or empty
    bool has_residual = false;
    Act act;
};

struct PoolDesc {
    Rows x, y;
    std::vector<int32_t> taps;
    Pooling kind = Pooling::max;
    float scale = 1;
};

struct HaloDesc {
    View image;  // [C, H, W]
    int64_t before = 0, after = 0;
    float value = 0;
};

struct CopyDesc {
    View dst, src;
};

struct UnaryDesc {
    View dst, src;
    Act act;
};

struct BinaryDesc {
    Binary fn = Binary::add;
    View dst, a, b;
    Act act;
};

struct ReduceDesc {
    Reduction kind = Reduction::sum;
    int axes = 0;
    View dst, src;
    float scale = 1;
};

struct SoftmaxDesc {
    View dst, src;
};

struct NormDesc {
    View dst, src;
    float eps = 0;
    Array<float> gain, bias;  // or empty
};

struct MatmulDesc {
    View c, a, b;
    float scale = 1;
};

// ---- on uint8 activations (FORMAT.md, Quantized activations): four channels in a word, so rows are of words ----

// Words lie in memory with this flipped. arm64 multiplies signed bytes by signed: q - 128 is its byte with the highest bit flipped.
#if defined(__aarch64__)
constexpr uint32_t FLIPPED = 0x80808080;
#else
constexpr uint32_t FLIPPED = 0;
#endif

constexpr int MOST_WEIGHT = 64;  // two products of a byte and such a weight fit int16, which AVX2 adds them in

// q = clamp(round_to_even(value) + zero, low, high)
struct Rounding {
    float zero = 0, low = 0, high = 255;
};

// q = clamp(round_to_even(fma(a, a_ratio, fma(b, b_ratio, offset))), low, high)
struct Sum {
    float a_ratio = 1, b_ratio = 1, offset = 0, low = 0, high = 255;
};

struct QLinearDesc {
    Rows x, y, residual;  // of words
    std::vector<int32_t> taps;
    int groups = 1;
    Bytes mask;            // one bit a block, [outputs][words of x in a group][taps]
    Array<int8_t> values;  // four a block; both may share the file's memory, as Weights
    int64_t blocks = 0;
    Array<float> multiplier;
    Array<int32_t> bias;  // of 4 * y.count outputs
    Rounding out;
    bool has_residual = false, residual_first = false;  // the sum's a; else its b
    Sum sum;
};

struct QDepthwiseDesc {
    Rows x, y;
    std::vector<int32_t> taps;
    Array<int8_t> weights;  // [y.count][taps][4]
    Array<float> multiplier;
    Array<int32_t> bias;
    Rounding out;
};

struct QPoolDesc {
    Rows x, y;
    std::vector<int32_t> taps;
};

struct QTableDesc {
    Rows x, y;
    Bytes table;  // 256: y's byte for each byte of x
};

struct QMeanDesc {
    View x;  // of words: channels, lines, columns
    Rows y;
    float multiplier = 1;
    int32_t bias = 0;
    Rounding out;
};

struct QAddDesc {
    Rows a, b, y;
    Sum sum;
};

struct QuantizeDesc {
    Rows x, y;  // x of floats, y of words
    float scale = 1;
    Rounding out;
    int64_t width = 0, pitch = 0;  // of x's lines, where the file says: what is between them is not looked at
};

// uint8 of this scale and zero point: (q - zero) * scale
struct Number {
    float scale = 1, zero = 0;
};

struct QMatmulDesc {
    MatmulDesc floats;  // its scale is not used
    Number a, b, c;
    float multiplier = 1;
};

struct DequantizeDesc {
    Rows x, y;
    float scale = 1, zero = 0;
};

template <class, class... Descs>
struct AnyOf {
    using type = std::variant<Descs...>;
};

using OperationDesc = AnyOf<void
#define OPERATION(number, NAME, name, Desc) , Desc
#include "operations.inc"
                            >::type;

}  // namespace mmrt
