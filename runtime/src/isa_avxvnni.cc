#define MMRT_SET avxvnni
#define MMRT_NEEDS (AVX2|FMA|AVXVNNI)
#define MMRT_WIDTH 8
#define MMRT_SPARSE_VECTORS 8
#define MMRT_DENSE_ROWS 4
#define MMRT_DENSE_VECTORS 3
#define MMRT_SPARSE_BELOW 0.6
#include "isa.h"
