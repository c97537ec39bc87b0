// INT4_* and INT8_*: records of `size` weights, weight = (q - zero) * scale, as
// runtime/blocks/onnx_int.py writes them.
//
//   bytes 0..3  scale  float32
//   byte  4     zero   uint8; _SYM layouts have no such byte, their zero is 8 or 128
//   then        q      4 bits: byte j holds weight 2j in its low nibble, 2j + 1 in its high one
//                      8 bits: a byte each
//
// The records have odd lengths, so no struct can lie over them.
#include "layouts.h"
#include "numbers.h"
#include "vectors.h"

namespace KERNELS {

void decode_int4(const uint8_t* row, int cols, int size, bool symmetric, float* out) {
    const uint8_t* next = row;
    for (int start = 0; start < cols; start += size) {
        const float scale = load_float(next);
        const float zero = symmetric ? 8.0f : (float)next[4];
        next += symmetric ? 4 : 5;
        for (int i = 0; i < size; i += 32, next += 16) {
            const Bytes q = load_bytes(next);
            const Bytes first = interleave_low(q & 15, q >> 4);
            const Bytes second = interleave_high(q & 15, q >> 4);
            write_from_zero(first, zero, scale, out + start + i);
            write_from_zero(second, zero, scale, out + start + i + 16);
        }
    }
}

void decode_int8(const uint8_t* row, int cols, int size, bool symmetric, float* out) {
    const uint8_t* next = row;
    for (int start = 0; start < cols; start += size) {
        const float scale = load_float(next);
        const float zero = symmetric ? 128.0f : (float)next[4];
        next += symmetric ? 4 : 5;
        for (int i = 0; i < size; i += 16, next += 16) {
            write_from_zero(load_bytes(next), zero, scale, out + start + i);
        }
    }
}

}  // namespace KERNELS
