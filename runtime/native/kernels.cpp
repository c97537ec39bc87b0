// The tables of one instruction set. They are constants: nothing of it may run before it is chosen.
#include "kernels.h"

#include "dot.h"
#include "layouts/layouts.h"

namespace KERNELS {

static const Layout LAYOUTS[] = {
    {"F32", 1, 4, decode_f32},      {"F16", 1, 2, decode_f16},      {"BF16", 1, 2, decode_bf16},
    {"Q8_0", 32, 34, decode_q8_0},  {"Q4_0", 32, 18, decode_q4_0},
};

#define TEXT(word) #word
#define NAME_OF(macro) TEXT(macro)

extern const Kernels kernels;
const Kernels kernels = {
    NAME_OF(KERNELS), LAYOUTS, (int)(sizeof LAYOUTS / sizeof LAYOUTS[0]), dot_tile,
};

}  // namespace KERNELS
