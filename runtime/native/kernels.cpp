// The table of one instruction set. It is constant: none of its code may run before it is chosen.
#include "kernels.h"

#include "dot.h"
#include "layouts/layouts.h"
#include "ops/ops.h"

namespace KERNELS {

static const Layout LAYOUTS[] = {
    {"F32", 1, 4, decode_f32},
    {"F16", 1, 2, decode_f16},
    {"BF16", 1, 2, decode_bf16},
    {"Q4_0", 32, 18, decode_q4_0},
    {"Q4_1", 32, 20, decode_q4_1},
    {"Q5_0", 32, 22, decode_q5_0},
    {"Q5_1", 32, 24, decode_q5_1},
    {"Q8_0", 32, 34, decode_q8_0},
    {"IQ4_NL", 32, 18, decode_iq4_nl},
    {"Q2_K", 256, 84, decode_q2_k},
    {"Q3_K", 256, 110, decode_q3_k},
    {"Q4_K", 256, 144, decode_q4_k},
    {"Q5_K", 256, 176, decode_q5_k},
    {"Q6_K", 256, 210, decode_q6_k},
    {"IQ4_XS", 256, 136, decode_iq4_xs},
#define ONNX_INT(bits, size)                                                              \
    {"INT" #bits "_" #size, size, 5 + size * bits / 8,                                    \
     [](const uint8_t* row, int cols, float* out) {                                       \
         decode_int##bits(row, cols, size, false, out);                                   \
     }},                                                                                  \
    {"INT" #bits "_" #size "_SYM", size, 4 + size * bits / 8,                             \
     [](const uint8_t* row, int cols, float* out) {                                       \
         decode_int##bits(row, cols, size, true, out);                                    \
     }}
    ONNX_INT(4, 32),
    ONNX_INT(4, 64),
    ONNX_INT(4, 128),
    ONNX_INT(8, 32),
    ONNX_INT(8, 64),
    ONNX_INT(8, 128),
#undef ONNX_INT
};

#define TEXT(word) #word
#define NAME_OF(macro) TEXT(macro)

extern const Kernels kernels;
const Kernels kernels = {
    NAME_OF(KERNELS), LAYOUTS, (int)(sizeof LAYOUTS / sizeof LAYOUTS[0]), FASTEST_X, dot_tile,
    {add, rmsnorm, silu_mul, rotate, narrow, widen, times_panel_f16, times_panel_f32, softmax_step},
};

}  // namespace KERNELS
