// The decoder of every layout; each is drawn and defined in its own file.
#pragma once

#include <cstdint>

namespace KERNELS {

void decode_f32(const uint8_t* row, int cols, float* out);
void decode_f16(const uint8_t* row, int cols, float* out);
void decode_bf16(const uint8_t* row, int cols, float* out);

void decode_q4_0(const uint8_t* row, int cols, float* out);
void decode_q4_1(const uint8_t* row, int cols, float* out);
void decode_q5_0(const uint8_t* row, int cols, float* out);
void decode_q5_1(const uint8_t* row, int cols, float* out);
void decode_q8_0(const uint8_t* row, int cols, float* out);
void decode_iq4_nl(const uint8_t* row, int cols, float* out);

void decode_q2_k(const uint8_t* row, int cols, float* out);
void decode_q3_k(const uint8_t* row, int cols, float* out);
void decode_q4_k(const uint8_t* row, int cols, float* out);
void decode_q5_k(const uint8_t* row, int cols, float* out);
void decode_q6_k(const uint8_t* row, int cols, float* out);
void decode_iq4_xs(const uint8_t* row, int cols, float* out);

// Blocks of `size` weights, a multiple of 32; `symmetric`: without a stored zero point.
void decode_int4(const uint8_t* row, int cols, int size, bool symmetric, float* out);
void decode_int8(const uint8_t* row, int cols, int size, bool symmetric, float* out);

}  // namespace KERNELS
