// The decoder of every layout; each is drawn and defined in its own file.
#pragma once

#include <cstdint>

namespace KERNELS {

void decode_f32(const uint8_t* row, int cols, float* out);
void decode_f16(const uint8_t* row, int cols, float* out);
void decode_bf16(const uint8_t* row, int cols, float* out);

void decode_q8_0(const uint8_t* row, int cols, float* out);
void decode_q4_0(const uint8_t* row, int cols, float* out);

}  // namespace KERNELS
