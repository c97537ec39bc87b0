// The ONNX layouts: a float32 scale, a zero point of a byte or none, and the codes; see
// runtime/quant_types/onnx_int.py.
#include "layout_of.h"
#include "two_bits.h"

namespace KERNELS {

template <int SIZE, Form MADE>
struct Int2 {
    static constexpr int BLOCK = SIZE, BYTES = SIZE / 4 + (MADE == SYMMETRIC ? 4 : 5), SUB = SIZE;
    static constexpr int CENTER = 2;
    static constexpr int BITS = 2;
    static constexpr Form FORM = MADE;

    static INLINE void scales(const uint8_t* bytes, float* scale, float* zero) {
        store(scale, repeat<8>(load_float(bytes)));
        if (MADE == ZERO_POINT) store(zero, repeat<8>((float)bytes[4]));
    }

    static INLINE Bytes<32> codes(const uint8_t* bytes, int index) {
        return four_a_byte(bytes + (MADE == SYMMETRIC ? 4 : 5) + 8 * index);
    }
};

template <int SIZE, Form MADE>
struct Int4 {
    static constexpr int BLOCK = SIZE, BYTES = SIZE / 2 + (MADE == SYMMETRIC ? 4 : 5), SUB = SIZE;
    static constexpr int CENTER = 8;
    static constexpr int BITS = 4;
    static constexpr Form FORM = MADE;

    static INLINE void scales(const uint8_t* bytes, float* scale, float* zero) {
        store(scale, repeat<8>(load_float(bytes)));
        if (MADE == ZERO_POINT) store(zero, repeat<8>((float)bytes[4]));
    }

    static INLINE Bytes<32> codes(const uint8_t* bytes, int index) {
        return pair_nibbles(bytes + (MADE == SYMMETRIC ? 4 : 5) + 16 * index);
    }
};

// Codes and zeros less 128: products are of signed bytes.
template <int SIZE, Form MADE>
struct Int8 {
    static constexpr int BLOCK = SIZE, BYTES = SIZE + (MADE == SYMMETRIC ? 4 : 5), SUB = SIZE;
    static constexpr int CENTER = 0;
    static constexpr int BITS = 8;
    static constexpr Form FORM = MADE;

    static INLINE void scales(const uint8_t* bytes, float* scale, float* zero) {
        store(scale, repeat<8>(load_float(bytes)));
        if (MADE == ZERO_POINT) store(zero, repeat<8>((float)bytes[4] - 128.0f));
    }

    static INLINE Bytes<32> codes(const uint8_t* bytes, int index) {
        return load<32>(bytes + (MADE == SYMMETRIC ? 4 : 5) + 32 * index) ^ 128;
    }
};

#define ONNX_INT(bits, size)                                       \
    layout_of<Int##bits<size, ZERO_POINT>>("INT" #bits "_" #size), \
        layout_of<Int##bits<size, SYMMETRIC>>("INT" #bits "_" #size "_SYM")

extern const Layout onnx_int[18];
const Layout onnx_int[18] = {ONNX_INT(2, 32), ONNX_INT(2, 64), ONNX_INT(2, 128),
                             ONNX_INT(4, 32), ONNX_INT(4, 64), ONNX_INT(4, 128),
                             ONNX_INT(8, 32), ONNX_INT(8, 64), ONNX_INT(8, 128)};

}  // namespace KERNELS
