// What compilers and machines have different words for.
#pragma once

// Before a loop over accumulators: without it GCC 12 leaves some of them in memory, and the inner loop waits for its own stores.
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

// Keeps a vector that was read in its register, where the compiler would read it again for each use.
#if defined(__x86_64__)
#define HOLD(vector) asm("" : "+v"(vector))
#else
#define HOLD(vector) asm("" : "+w"(vector))
#endif
