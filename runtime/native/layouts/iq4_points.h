// The table of IQ4_NL and IQ4_XS: point q is the weight of code q at scale 1; denser near zero.
#pragma once

#include "../simd.h"

namespace KERNELS {

static const Codes<16> IQ4_POINTS = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};

}  // namespace KERNELS
