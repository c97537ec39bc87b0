// What a token needs between the products. The table of these functions is `Ops` of kernels.h,
// which says what each of them does.
//
// These files are compiled like the decoders of layouts/, and may include as little (kernels.h).
#pragma once

#include <cstddef>
#include <cstdint>

struct LogitSums;  // kernels.h

namespace KERNELS {

void add(float* x, const float* y, int count);
void rmsnorm(const float* x, const float* weight, int count, float eps, float* out);
void silu_mul(float* gate, const float* up, int count);
void gelu_mul(float* gate, const float* up, int count);
void rotate(float* head, const float* cosines, const float* sines, int half);

void to_f16(const float* values, int count, uint16_t* out);
void to_f32(const uint16_t* values, int count, float* out);
void times_strip_f16(const float* a, ptrdiff_t a_stride, int rows, const void* strip, int count,
                     const float* keep, float* out, ptrdiff_t out_stride);
void times_strip_f32(const float* a, ptrdiff_t a_stride, int rows, const void* strip, int count,
                     const float* keep, float* out, ptrdiff_t out_stride);
float softmax_step(float* scores, int keys, int seen, float* largest, float* sum);
void compare_logits(const float* p, const float* q, int count, LogitSums* out);

}  // namespace KERNELS
