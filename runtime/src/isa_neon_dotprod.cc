#define MMRT_SET neon_dotprod
#define MMRT_NEEDS (NEON|DOTPROD)
#define MMRT_WIDTH 4
#define MMRT_SPARSE_VECTORS 16
#define MMRT_DENSE_ROWS 8
#define MMRT_DENSE_VECTORS 3
#define MMRT_SPARSE_BELOW 0.6
#include "isa.h"
