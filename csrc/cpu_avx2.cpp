// CPU kernels for AVX2, FMA and F16C (8 lanes); compiled with -mavx2 -mfma -mf16c.
#define SPD_ISA avx2
#include "cpu_kernels.h"
