// Every layout; each is drawn and defined in its own file.
#pragma once

#include "../kernels.h"

namespace KERNELS {

extern const Layout f32, f16, bf16;
extern const Layout q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl;
extern const Layout q2_k, q3_k, q4_k, q5_k, q6_k, iq4_xs;
extern const Layout onnx_int[12];

}  // namespace KERNELS
