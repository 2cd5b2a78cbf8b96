// Where two blocks take no fewer instructions together than one after the other.
#pragma once

namespace mmrt {
namespace {

constexpr int Q_PAIRED = 0;
struct Two {};
MMRT_INLINE Two two_weights(const QBlock*) { return {}; }
MMRT_INLINE VI dot_two(VI acc, VI, VI, Two) { return acc; }

}  // namespace
}  // namespace mmrt
