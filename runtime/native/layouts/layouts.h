// Every layout; each is drawn and defined in its own file.
#pragma once

#include "../kernels.h"

namespace KERNELS {

extern const Layout f32, f16, bf16;
extern const Layout q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl;
extern const Layout q2_k, q3_k, q4_k, q5_k, q6_k, iq4_xs;
extern const Layout iq1_s, iq1_m, iq2_xxs, iq2_xs, iq2_s, iq3_xxs, iq3_s;
extern const Layout tq1_0, tq2_0, q1_0, q2_0, mxfp4, nvfp4, nvfp4_scaled;
extern const Layout onnx_int[18];

}  // namespace KERNELS
