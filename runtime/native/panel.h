// Products of many tokens with int8 activations: eight rows side by side, unpacked once.
//
// Each register holds four columns of each of eight rows, so that whole registers of sums are
// scaled at once: 32 columns of eight rows take eight integer products and three float operations.
#pragma once

#include "kernels.h"
#include "wide.h"

namespace KERNELS {

#if defined(__AVX2__) || defined(__ARM_FEATURE_DOTPROD)
#define HAS_PANELS 1

// out (n, rows) from `row` on, for the panel's first `height` rows and all activations.
void multiply_panel(const Panel& panel, const Quantized& x, int rows, int row, int height,
                    float* out);
#endif

}  // namespace KERNELS
