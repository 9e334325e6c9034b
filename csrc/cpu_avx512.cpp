// CPU kernels for AVX-512 (16 lanes); compiled with -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma.
#define SPD_ISA avx512
#include "cpu_kernels.h"
