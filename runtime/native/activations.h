// Activations as int8 codes; see kernels.h.
#pragma once

#include "kernels.h"

namespace KERNELS {

void quantize_activations(const float* x, int row, const Quantized& out);

}  // namespace KERNELS
