// CPU kernels for any processor (4 lanes).
#define SPD_ISA baseline
#include "cpu_kernels.h"
