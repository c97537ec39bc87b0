// MXFP4 and NVFP4: floats of 4 bits, weight = scale * FP4_POINTS[q].
//
//   MXFP4, 32 weights: scale = 2^(e - 128)
//   byte 0        e
//   bytes 1..16   q  low nibbles: weights 0..15, high nibbles: weights 16..31
//
//   NVFP4, 64 weights in 4 sub-blocks of 16: scale = s / 2
//   bytes 0..3    s  E4M3 without a sign (bit 7); 127 stands for 0
//   bytes 4..35   q  of each 16: low nibble of byte j: weight j, high nibble: weight 8 + j
//
//   NVFP4_SCALED: scale = s / 2 * t
//   bytes 0..3    t  float32
//   bytes 4..39   as NVFP4
#include "layout_of.h"

namespace KERNELS {

// Twice the value of each code.
static const Codes<16> FP4_POINTS = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

struct MXFP4 {
    static constexpr int BLOCK = 32, BYTES = 17, SUB = 32, CENTER = 0, BITS = 8;
    static constexpr Form FORM = SYMMETRIC;

    static INLINE void scales(const uint8_t* bytes, float* scale, float*) {
        const uint32_t e = bytes[0];
        const uint32_t bits = e < 2 ? 0x00200000u << e : (e - 1) << 23;  // a float32 below 2^-126
        float d;
        memcpy(&d, &bits, sizeof d);
        store(scale, repeat<8>(d));
    }

    static INLINE Bytes<32> codes(const uint8_t* bytes, int) {
        return look_up(FP4_POINTS, split_nibbles(bytes + 1));
    }
};

// Half the value of an E4M3.
static INLINE float half_of_e4m3(int byte) {
    const int exponent = byte >> 3 & 15, mantissa = byte & 7;
    if (byte == 127) return 0.0f;
    const uint32_t power = (uint32_t)((exponent > 0 ? exponent : 1) - 11 + 127) << 23;
    float step;
    memcpy(&step, &power, sizeof step);
    return step * (float)(exponent > 0 ? 8 + mantissa : mantissa);
}

template <int AT>
struct NVFP4 {
    static constexpr int BLOCK = 64, BYTES = AT + 36, SUB = 16, CENTER = 0, BITS = 8;
    static constexpr Form FORM = SYMMETRIC;

    static INLINE void scales(const uint8_t* bytes, float* scale, float*) {
        for (int sub = 0; sub < 4; sub++) {
            scale[sub] = half_of_e4m3(bytes[AT + sub]);
            if (AT > 0) scale[sub] *= load_float(bytes);
        }
    }

    static INLINE Bytes<32> codes(const uint8_t* bytes, int part) {
        uint8_t q[32];
        for (int i = 0; i < 32; i++) {
            q[i] = bytes[AT + 4 + 16 * part + i / 16 * 8 + i % 8] >> (i & 8 ? 4 : 0) & 15;
        }
        return look_up(FP4_POINTS, load<32>(q));
    }
};

extern const Layout mxfp4, nvfp4, nvfp4_scaled;
const Layout mxfp4 = layout_of<MXFP4>("MXFP4");
// A block has fewer scales than the products with int8 activations take at once.
const Layout nvfp4 = {"NVFP4", 64, 36,   decode_row<NVFP4<0>>, nullptr, nullptr, nullptr,
                      0,       0,  false};
const Layout nvfp4_scaled = {
    "NVFP4_SCALED", 64, 40, decode_row<NVFP4<4>>, nullptr, nullptr, nullptr, 0, 0, false};

}  // namespace KERNELS
