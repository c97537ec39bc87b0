// Codes and scales into the bytes of each layout, a row at a time.
#include "packers.h"

#include <cstring>

#include "../form.h"
#include "../simd.h"

namespace KERNELS {

// Codes of which the low `bits` are kept; a chunk of run * 8 / bits fills `run` bytes, and field f
// of byte j, lowest bits first, is its code f * run + j. `bias` and `shift` come before.
INLINE void pack_fields(const uint8_t* codes, int count, int bias, int shift, int bits, int run,
                        uint8_t* out) {
    const int fields = 8 / bits, mask = (1 << bits) - 1;
    for (int start = 0; start < count; start += run * fields, out += run) {
        for (int j = 0; j < run; j++) {
            uint8_t byte = 0;
            for (int f = 0; f < fields; f++) {
                const uint8_t code = (uint8_t)(codes[start + f * run + j] + bias);
                byte = (uint8_t)(byte | (code >> shift & mask) << (f * bits));
            }
            out[j] = byte;
        }
    }
}

// A float32 that float16 holds exactly.
static void pack_half(float x, uint8_t* out) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    const float absolute = x < 0 ? -x : x;
    const uint32_t half = magnitude < 113u << 23 ? (uint32_t)(absolute * 16777216.0f)  // subnormal
                                                 : (magnitude >> 13) - (112u << 10);
    out[0] = (uint8_t)half;
    out[1] = (uint8_t)((sign | half) >> 8);
}

static void pack_q4_0(const uint8_t* codes, const float* params, uint8_t* out) {
    pack_half(params[0], out);
    pack_fields(codes, 32, 8, 0, 4, 16, out + 2);
}

static void pack_q4_1(const uint8_t* codes, const float* params, uint8_t* out) {
    pack_half(params[0], out);
    pack_half(params[1], out + 2);
    pack_fields(codes, 32, 0, 0, 4, 16, out + 4);
}

static void pack_q5_0(const uint8_t* codes, const float* params, uint8_t* out) {
    pack_half(params[0], out);
    pack_fields(codes, 32, 16, 4, 1, 1, out + 2);
    pack_fields(codes, 32, 16, 0, 4, 16, out + 6);
}

static void pack_q5_1(const uint8_t* codes, const float* params, uint8_t* out) {
    pack_half(params[0], out);
    pack_half(params[1], out + 2);
    pack_fields(codes, 32, 0, 4, 1, 1, out + 4);
    pack_fields(codes, 32, 0, 0, 4, 16, out + 8);
}

static void pack_q8_0(const uint8_t* codes, const float* params, uint8_t* out) {
    pack_half(params[0], out);
    memcpy(out + 2, codes, 32);
}

static void pack_iq4_nl(const uint8_t* codes, const float* params, uint8_t* out) {
    pack_half(params[0], out);
    pack_fields(codes, 32, 0, 0, 4, 16, out + 2);
}

// The integers of a block as bytes, `bias` added.
static void bytes_of(const float* numbers, int count, int bias, uint8_t* out) {
    for (int i = 0; i < count; i++) out[i] = (uint8_t)((int)numbers[i] + bias);
}

static void pack_iq4_xs(const uint8_t* codes, const float* params, uint8_t* out) {
    uint8_t scales[8];
    bytes_of(params + 1, 8, 32, scales);
    pack_half(params[0], out);
    pack_fields(scales, 8, 0, 4, 2, 1, out + 2);
    pack_fields(scales, 8, 0, 0, 4, 1, out + 4);
    pack_fields(codes, 256, 0, 0, 4, 16, out + 8);
}

static void pack_q2_k(const uint8_t* codes, const float* params, uint8_t* out) {
    uint8_t pairs[32];
    bytes_of(params + 2, 32, 0, pairs);
    pack_fields(pairs, 32, 0, 0, 4, 16, out);
    pack_fields(codes, 256, 0, 0, 2, 32, out + 16);
    pack_half(params[0], out + 80);
    pack_half(params[1], out + 82);
}

static void pack_q3_k(const uint8_t* codes, const float* params, uint8_t* out) {
    uint8_t scales[16];
    bytes_of(params + 1, 16, 32, scales);
    pack_fields(codes, 256, 4, 2, 1, 32, out);
    pack_fields(codes, 256, 4, 0, 2, 32, out + 32);
    pack_fields(scales, 16, 0, 0, 4, 8, out + 96);
    pack_fields(scales, 16, 0, 4, 2, 4, out + 104);
    pack_half(params[0], out + 108);
}

// d, dmin, and 8 scales and mins of 6 bits: see runtime/quant_types/q4_k.py.
static void pack_pairs(const float* params, uint8_t* out) {
    uint8_t pairs[16];
    bytes_of(params + 2, 16, 0, pairs);
    pack_half(params[0], out);
    pack_half(params[1], out + 2);
    const uint8_t *scales = pairs, *mins = pairs + 8;
    for (int j = 0; j < 4; j++) {
        out[4 + j] = (uint8_t)(scales[j] | scales[j + 4] >> 4 << 6);
        out[8 + j] = (uint8_t)(mins[j] | mins[j + 4] >> 4 << 6);
        out[12 + j] = (uint8_t)((scales[j + 4] & 15) | mins[j + 4] << 4);
    }
}

static void pack_q4_k(const uint8_t* codes, const float* params, uint8_t* out) {
    pack_pairs(params, out);
    pack_fields(codes, 256, 0, 0, 4, 32, out + 16);
}

static void pack_q5_k(const uint8_t* codes, const float* params, uint8_t* out) {
    pack_pairs(params, out);
    pack_fields(codes, 256, 0, 4, 1, 32, out + 16);
    pack_fields(codes, 256, 0, 0, 4, 32, out + 48);
}

static void pack_q6_k(const uint8_t* codes, const float* params, uint8_t* out) {
    pack_fields(codes, 256, 32, 0, 4, 64, out);
    pack_fields(codes, 256, 32, 4, 2, 32, out + 128);
    bytes_of(params + 1, 16, 0, out + 192);
    pack_half(params[0], out + 208);
}

// A scale, in float16 with HALF, a zero point with ZERO_POINT, and the codes.
template <int BITS, int SIZE, Form FORM, bool HALF>
static void pack_onnx(const uint8_t* codes, const float* params, uint8_t* out) {
    if (HALF) {
        pack_half(params[0], out);
    } else {
        memcpy(out, params, 4);
    }
    out += HALF ? 2 : 4;
    if (FORM == ZERO_POINT) *out++ = (uint8_t)params[1];
    pack_fields(codes, SIZE, 0, 0, BITS, 1, out);
}

template <int BITS, int SIZE, Form FORM, bool HALF>
constexpr Packer onnx(const char* name) {
    return {name, (HALF ? 2 : 4) + (FORM == SYMMETRIC ? 0 : 1) + SIZE * BITS / 8,
            pack_onnx<BITS, SIZE, FORM, HALF>};
}

#define ONNX_INT(bits, size)                                              \
    onnx<bits, size, ZERO_POINT, false>("INT" #bits "_" #size),           \
        onnx<bits, size, SYMMETRIC, false>("INT" #bits "_" #size "_SYM"), \
        onnx<bits, size, ZERO_POINT, true>("INT" #bits "_" #size "_F16"), \
        onnx<bits, size, SYMMETRIC, true>("INT" #bits "_" #size "_SYM_F16")

const Packer PACKERS[PACKER_COUNT] = {
    {"Q4_0", 18, pack_q4_0},  {"Q4_1", 20, pack_q4_1},  {"Q5_0", 22, pack_q5_0},
    {"Q5_1", 24, pack_q5_1},  {"Q8_0", 34, pack_q8_0},  {"IQ4_NL", 18, pack_iq4_nl},
    {"Q2_K", 84, pack_q2_k},  {"Q3_K", 110, pack_q3_k}, {"Q4_K", 144, pack_q4_k},
    {"Q5_K", 176, pack_q5_k}, {"Q6_K", 210, pack_q6_k}, {"IQ4_XS", 136, pack_iq4_xs},
    ONNX_INT(2, 32),          ONNX_INT(2, 64),          ONNX_INT(2, 128),
    ONNX_INT(4, 32),          ONNX_INT(4, 64),          ONNX_INT(4, 128),
    ONNX_INT(8, 32),          ONNX_INT(8, 64),          ONNX_INT(8, 128),
};

}  // namespace KERNELS
