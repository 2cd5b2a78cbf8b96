#define MMRT_SET scalar
#define MMRT_NEEDS (0)
#define MMRT_WIDTH 1
#define MMRT_SPARSE_VECTORS 8
#define MMRT_DENSE_ROWS 4
#define MMRT_DENSE_VECTORS 1
#define MMRT_SPARSE_BELOW 0.9
#include "isa.h"
