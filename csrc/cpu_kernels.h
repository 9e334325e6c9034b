// The table of cpu.h for one instruction set: each cpu_<isa>.cpp defines SPD_ISA and includes this file.
#pragma once
#include "cpu_haar.h"

namespace spd {
inline namespace SPD_ISA {

#define SPD_STRING_(x) #x
#define SPD_STRING(x) SPD_STRING_(x)

extern const Kernels kKernels = {
    SPD_STRING(SPD_ISA),
    kLanes,
    strips,
    tile_floats,
    line_floats,
    expand_columns_in,
    expand_rows,
    expand_columns_out,
    restrict_columns_in,
    restrict_rows,
    restrict_columns_out,
    power_plane,
    power_unpack,
    haar_line_floats,
    haar_expand,
    haar_restrict,
    noise_line_floats,
    noise_plane,
};

}  // namespace SPD_ISA
}  // namespace spd
