#include "threads.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <system_error>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mmrt {
namespace {

constexpr int SPINS = 20000;  // some 100 microseconds: longer than the gap between two steps, shorter than anyone notices
constexpr int MOST = 256;
constexpr uint64_t MOST_UNITS = 0xFFFF;

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

Threads::Threads(int count) {
    if (count < 1 || count > MOST) throw std::runtime_error("threads must be 1 to 256, not " + std::to_string(count));
    shares_ = std::make_unique<Share[]>(size_t(count));
    try {
        for (int i = 1; i < count; ++i) workers_.emplace_back([this, i] { serve(i); });
    } catch (const std::system_error& err) {  // threads that did start must end before the vector goes
        const size_t started = workers_.size() + 1;
        stop();
        throw std::runtime_error("only " + std::to_string(started) + " of " + std::to_string(count) + " threads can be started: " + err.what());
    }
}

Threads::~Threads() { stop(); }

void Threads::stop() {
    stop_ = true;
    start(step_ + 1);
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
}

// Takes the lock only where a thread sleeps: one that spins would find it held, and sleep for it.
void Threads::start(uint64_t step) {
    step_.store(step);
    if (sleepers_.load() == 0) return;
    {
        std::lock_guard<std::mutex> lock(mutex_);
    }
    wake_.notify_all();
}

bool Threads::take_from(Share& share, uint64_t step, bool front, int* unit) {
    uint64_t left = share.left.load(std::memory_order_acquire);
    for (;;) {
        const uint64_t begin = left >> 16 & MOST_UNITS, end = left & MOST_UNITS;
        if (left >> 32 != step || begin == end) return false;
        *unit = int(front ? begin : end - 1);
        if (share.left.compare_exchange_weak(left, front ? left + (1 << 16) : left - 1, std::memory_order_acq_rel)) return true;
    }
}

void Threads::take(int own, uint64_t step) {
    for (int i = 0, unit = 0; i < count(); ++i) {
        Share& share = shares_[(own + i) % count()];
        while (take_from(share, step, i == 0, &unit)) {
            const int end = std::min(items_, (unit + 1) * grain_);
            for (int item = unit * grain_; item < end; ++item) (*work_)(item);
            done_.fetch_add(1, std::memory_order_acq_rel);
        }
    }
}

void Threads::run(int items, const std::function<void(int)>& work) {
    if (workers_.empty() || items == 1) {
        for (int i = 0; i < items; ++i) work(i);
        return;
    }
    const int grain = 1 + items / int(MOST_UNITS), units = (items + grain - 1) / grain;
    const uint64_t step = (step_.load(std::memory_order_relaxed) + 1) & 0xFFFFFFFF;
    work_ = &work;
    items_ = items;
    grain_ = grain;
    done_.store(0, std::memory_order_relaxed);
    for (int64_t i = 0; i < count(); ++i) {
        const uint64_t begin = uint64_t(units * i / count()), end = uint64_t(units * (i + 1) / count());
        shares_[i].left.store(step << 32 | begin << 16 | end, std::memory_order_release);
    }
    start(step);
    take(0, step);
    for (int i = 0; done_.load(std::memory_order_acquire) < units; ++i) {
        if (i < SPINS) pause();
        else std::this_thread::yield();  // the last items' threads may be waiting for this very core
    }
}

void Threads::serve(int own) {
    uint64_t seen = 0;
    for (;;) {
        for (int i = 0; i < SPINS && step_.load(std::memory_order_acquire) == seen; ++i) pause();
        if (step_.load(std::memory_order_acquire) == seen) {
            std::unique_lock<std::mutex> lock(mutex_);
            ++sleepers_;
            wake_.wait(lock, [&] { return step_.load() != seen; });
            --sleepers_;
        }
        seen = step_.load(std::memory_order_acquire);
        if (stop_) return;
        take(own, seen);
    }
}

}  // namespace mmrt
