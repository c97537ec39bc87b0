
#include "product.h"

namespace KERNELS {

template <int SIZE, bool SYMMETRIC>
struct Int4 {
    static constexpr int BLOCK = SIZE, BYTES = SIZE / 2 + (SYMMETRIC ? 4 : 5), SUB = SIZE;
    static constexpr int CENTER = 8;
    static constexpr int BITS = 4;
    static constexpr Form FORM = SYMMETRIC ? CENTERED : ZERO;

    static INLINE void scales(const uint8_t* bytes, float* scale, float* zero) {
        store8(scale, repeat8(load_float(bytes)));
        if (!SYMMETRIC) store8(zero, repeat8((float)bytes[4]));
    }

    static INLINE Bytes32 codes(const uint8_t* bytes, int index) {
        return pair_nibbles(bytes + (SYMMETRIC ? 4 : 5) + 16 * index);
    }
};

// Codes and zeros less 128: products are of signed bytes.
template <int SIZE, bool SYMMETRIC>
struct Int8 {
    static constexpr int BLOCK = SIZE, BYTES = SIZE + (SYMMETRIC ? 4 : 5), SUB = SIZE;
    static constexpr int CENTER = 0;
    static constexpr int BITS = 8;
    static constexpr Form FORM = SYMMETRIC ? CENTERED : ZERO;

    static INLINE void scales(const uint8_t* bytes, float* scale, float* zero) {
        store8(scale, repeat8(load_float(bytes)));
        if (!SYMMETRIC) store8(zero, repeat8((float)bytes[4] - 128.0f));
    }

    static INLINE Bytes32 codes(const uint8_t* bytes, int index) {
        return load32(bytes + (SYMMETRIC ? 4 : 5) + 32 * index) ^ repeat32(128);
    }
};

#define ONNX_INT(bits, size)                                  \
    layout_of<Int##bits<size, false>>("INT" #bits "_" #size), \
        layout_of<Int##bits<size, true>>("INT" #bits "_" #size "_SYM")

extern const Layout onnx_int[12];
const Layout onnx_int[12] = {ONNX_INT(4, 32), ONNX_INT(4, 64), ONNX_INT(4, 128),
                             ONNX_INT(8, 32), ONNX_INT(8, 64), ONNX_INT(8, 128)};

}  // namespace KERNELS
