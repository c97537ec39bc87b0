// The table of one instruction set. It is constant: none of its code may run before it is chosen.
#include "kernels.h"

#include "activations.h"
#include "dot.h"
#include "gemm_amx.h"
#include "gemm_int8.h"
#include "layouts/layouts.h"
#include "ops/ops.h"
#include "syrk_bf16.h"

namespace KERNELS {

static const Layout* const LAYOUTS[] = {
    &f32,          &f16,          &bf16,         &q4_0,         &q4_1,         &q5_0,
    &q5_1,         &q8_0,         &iq4_nl,       &q2_k,         &q3_k,         &q4_k,
    &q5_k,         &q6_k,         &iq4_xs,       onnx_int,      onnx_int + 1,  onnx_int + 2,
    onnx_int + 3,  onnx_int + 4,  onnx_int + 5,  onnx_int + 6,  onnx_int + 7,  onnx_int + 8,
    onnx_int + 9,  onnx_int + 10, onnx_int + 11, onnx_int + 12, onnx_int + 13, onnx_int + 14,
    onnx_int + 15, onnx_int + 16, onnx_int + 17, &iq1_s,        &iq1_m,        &iq2_xxs,
    &iq2_xs,       &iq2_s,        &iq3_xxs,      &iq3_s,        &tq1_0,        &tq2_0,
    &q1_0,         &q2_0,         &mxfp4,        &nvfp4,        &nvfp4_scaled,
};

#if !defined(HAS_PANELS)
constexpr int PANEL_ROWS = 0, PANEL_TOKENS = 0, PANEL_COLS = 0;
constexpr std::nullptr_t gemm_int8 = nullptr;
#endif
#if !defined(__AMX_BF16__)
constexpr std::nullptr_t pack_activations = nullptr, gemm_amx = nullptr;
#endif
#if !defined(__AVX512BF16__) || defined(__AMX_BF16__)
constexpr std::nullptr_t pack_pairs = nullptr, syrk_bf16 = nullptr;
#endif

#define TEXT(word) #word
#define NAME_OF(macro) TEXT(macro)

extern const Kernels kernels;
const Kernels kernels = {
    NAME_OF(KERNELS),
    LAYOUTS,
    (int)(sizeof LAYOUTS / sizeof LAYOUTS[0]),
    FASTEST_X,
    dot_tile,
    quantize_activations,
    PANEL_ROWS,
    PANEL_TOKENS,
    PANEL_COLS,
    gemm_int8,
    pack_activations,
    gemm_amx,
    pack_pairs,
    syrk_bf16,
    &::FIT::rounding,
    {add, rmsnorm, silu_mul, gelu_mul, rotate, to_f16, to_f32, times_strip_f16, times_strip_f32,
     softmax_step, compare_logits},
};

}  // namespace KERNELS
