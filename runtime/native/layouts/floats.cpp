// F32, F16 and BF16: the values themselves, little-endian.
#include <cstring>

#include "layouts.h"
#include "numbers.h"

namespace KERNELS {

void decode_f32(const uint8_t* row, int cols, float* out) {
    memcpy(out, row, sizeof(float) * (size_t)cols);
}

void decode_f16(const uint8_t* __restrict row, int cols, float* __restrict out) {
    for (int col = 0; col < cols; col++) out[col] = load_half(row + 2 * col);
}

void decode_bf16(const uint8_t* __restrict row, int cols, float* __restrict out) {
    for (int col = 0; col < cols; col++) out[col] = load_bfloat(row + 2 * col);
}

}  // namespace KERNELS
