// Times every kernel of every set that runs here, or of the one that MMRT_ISA names: a line each, as JSON or for people.
#pragma once

void bench_kernels(bool json);
