// Activations become int8 codes with a scale for each 32 columns: scale = largest magnitude / 127,
// code = activation / scale, rounded to the nearest, halves to even.
//
// The steps are the same on every instruction set, and so are the codes.
#include "activations.h"

#include "simd.h"

namespace KERNELS {

// 32 activations of one token.
struct Part {
    float scale;
    int32_t sums[2][4];  // of the first and the last sixteen codes, by the column modulo 4
    int8_t codes[32];
};

// Four numbers of each lane modulo 4, put together by `join`.
template <class Join>
static INLINE void fold_to_four(Ints<> lanes, int32_t* four, Join join) {
    int32_t all[LANES];
    store(all, lanes);
    Ints<4> found = load<4>(all);
    for (int lane = 4; lane < LANES; lane += 4) found = join(found, load<4>(all + lane));
    store(four, found);
}

// The bits of the largest magnitude of 32. They order as the numbers do, NaN above infinity.
static INLINE int32_t largest_bits(const float* x) {
    const auto larger = [](auto a, auto b) ALWAYS_INLINE { return a > b ? a : b; };
    Ints<> lanes = {};
    for (int i = 0; i < 32; i += LANES) {
        lanes = larger(lanes, (Ints<>)load<LANES>(x + i) & 0x7fffffff);
    }
    int32_t four[4];
    fold_to_four(lanes, four, larger);
    return larger(larger(four[0], four[1]), larger(four[2], four[3]));
}

static INLINE void round_codes(const float* x, float inverse, Part& part) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: floats near it are the integers
    int32_t rounded[32];
    for (int half = 0; half < 2; half++) {
        Ints<> sums = {};
        for (int i = 16 * half; i < 16 * half + 16; i += LANES) {
            // less the bits of `magic`
            const Ints<> codes = (Ints<>)(load<LANES>(x + i) * inverse + magic) - 0x4b400000;
            store(rounded + i, codes);
            sums += codes;
        }
        fold_to_four(sums, part.sums[half], [](auto a, auto b) ALWAYS_INLINE { return a + b; });
    }
    for (int i = 0; i < 32; i++) part.codes[i] = (int8_t)rounded[i];
}

static INLINE Part part_of(const float* x) {
    Part part = {};
    const int32_t bits = largest_bits(x);
    const float largest = float_of_bits((uint32_t)bits);
    if (bits >= 0x7f800000) {  // an infinity or NaN makes every product with it NaN
        part.scale = float_of_bits(0x7fc00000);
    } else if (largest >= 1e-30f) {  // below, the inverse could overflow: they count as zero
        part.scale = largest / 127.0f;
        round_codes(x, 127.0f / largest, part);
    }
    return part;
}

// What products of `width` codes begin with.
static INLINE int32_t start_of(const int* sums, const Quantized& out) {
    const int even = sums[0] + sums[1], odd = sums[2] + sums[3];
    if (!out.in_pairs) return -out.center * (even + odd);
    const int16_t both[2] = {(int16_t)(-out.center * even), (int16_t)(-out.center * odd)};
    int32_t start;
    memcpy(&start, both, sizeof start);
    return start;
}

// A token's numbers lie as far apart as its group is wide.
void quantize_activations(const float* x, int row, const Quantized& out) {
    const int step = out.group, inside = row % step;
    const size_t before = (size_t)(row - inside) * out.cols;  // of the groups before
    int8_t* codes = out.codes + before + 4 * inside;
    float* scales = out.scales + before / 32 + inside;
    size_t sub = before / out.width + inside;
    x += (size_t)row * out.cols;
    for (int col = 0; col < out.cols; col += 32, scales += step) {
        const Part part = part_of(x + col);
        for (int four = 0; four < 32; four += 4, codes += 4 * step) {
            memcpy(codes, part.codes + four, 4);
        }
        *scales = part.scale;
        for (int first = 0; first < 32; first += out.width, sub += step) {
            int sums[4];
            for (int i = 0; i < 4; i++) {
                sums[i] =
                    out.width == 32 ? part.sums[0][i] + part.sums[1][i] : part.sums[first / 16][i];
            }
            out.sums[sub] = part.scale * (float)(sums[0] + sums[1] + sums[2] + sums[3]);
            out.starts[sub] = start_of(sums, out);
        }
    }
}

}  // namespace KERNELS
