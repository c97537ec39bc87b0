// See panel.h. Four tokens at a time share each register of weights.
#include "panel.h"

#if defined(HAS_PANELS)

namespace KERNELS {

constexpr int TOKENS_AT_ONCE = 4;

// One token's eight sums of `WIDTH` columns, scaled.
struct Token {
    const int8_t* codes;
    const float *scales, *sums;
};

// Products of `WIDTH` columns from `col` on: eight integers a token.
template <int WIDTH, bool SIGNED, int N>
INLINE void multiply_codes(const uint8_t* codes, const Token* tokens, int col, Ints8* dots) {
    for (int i = 0; i < N; i++) dots[i] = Ints8{};
    for (int four = col; four < col + WIDTH; four += 4) {
        const Bytes32 w = load32(codes + 8 * four);
        for (int i = 0; i < N; i++) {
            const Bytes32 xs = repeat_four(tokens[i].codes + four);
            dots[i] = SIGNED ? add_dot_signed(dots[i], w, xs) : add_dot(dots[i], w, xs);
        }
    }
}

#if defined(__ARM_FEATURE_MATMUL_INT8)
// The same integers for pairs of tokens: smmla takes two rows and two tokens over eight columns.
template <int WIDTH, int N>
INLINE void multiply_pairs(const uint8_t* codes, const Token* tokens, int col, Ints8* dots) {
    int32x4_t sums[N / 2][4] = {};  // of two rows with two tokens each
    for (int eight = col; eight < col + WIDTH; eight += 8) {
        const Bytes32 left = load32(codes + 8 * eight), right = load32(codes + 8 * eight + 32);
        const int8x16_t rows[4] = {
            (int8x16_t)vzip1q_s32((int32x4_t)left.low, (int32x4_t)right.low),
            (int8x16_t)vzip2q_s32((int32x4_t)left.low, (int32x4_t)right.low),
            (int8x16_t)vzip1q_s32((int32x4_t)left.high, (int32x4_t)right.high),
            (int8x16_t)vzip2q_s32((int32x4_t)left.high, (int32x4_t)right.high)};
        for (int i = 0; i < N / 2; i++) {
            const int8x16_t xs = vcombine_s8(vld1_s8(tokens[2 * i].codes + eight),
                                             vld1_s8(tokens[2 * i + 1].codes + eight));
            for (int r = 0; r < 4; r++) sums[i][r] = vmmlaq_s32(sums[i][r], rows[r], xs);
        }
    }
    for (int i = 0; i < N / 2; i++) {
        const int32x4_t* of = sums[i];
        dots[2 * i] = {(Ints4)vuzp1q_s32(of[0], of[1]), (Ints4)vuzp1q_s32(of[2], of[3])};
        dots[2 * i + 1] = {(Ints4)vuzp2q_s32(of[0], of[1]), (Ints4)vuzp2q_s32(of[2], of[3])};
    }
}
#endif

// `N` is a constant at each call. A sum is made of the same steps whatever N is.
template <int WIDTH, bool SIGNED, int N>
static void multiply(const Panel& panel, const Quantized& x, int first, Floats8 out[N]) {
    Token tokens[N];
    for (int i = 0; i < N; i++) {
        const size_t from = (size_t)(first + i) * x.cols;
        tokens[i] = {x.codes + from, x.scales + from / 32,
                     (WIDTH == 16 ? x.sums16 : x.sums32) + from / WIDTH};
        out[i] = repeat8(0);
    }
    for (int col = 0; col < panel.cols; col += WIDTH) {
        Ints8 dots[N];
#if defined(__ARM_FEATURE_MATMUL_INT8)
        if constexpr (N % 2 == 0) {
            multiply_pairs<WIDTH, N>(panel.codes, tokens, col, dots);
        } else {
            multiply_codes<WIDTH, SIGNED, N>(panel.codes, tokens, col, dots);
        }
#else
        multiply_codes<WIDTH, SIGNED, N>(panel.codes, tokens, col, dots);
#endif
        const Floats8 scales = load8(panel.scales + 8 * (col / WIDTH));
        const Floats8 offsets = load8(panel.offsets + 8 * (col / WIDTH));
        for (int i = 0; i < N; i++) {
            const Floats8 both = scales * repeat8(tokens[i].scales[col / 32]);
            out[i] = fused(floats_of(dots[i]), both, out[i]);
            out[i] = fused(offsets, repeat8(tokens[i].sums[col / WIDTH]), out[i]);
        }
    }
}

template <int N>
static void multiply_some(const Panel& panel, const Quantized& x, int first, Floats8 out[N]) {
    if (panel.width == 16 && panel.is_signed) return multiply<16, true, N>(panel, x, first, out);
    if (panel.width == 16) return multiply<16, false, N>(panel, x, first, out);
    if (panel.is_signed) return multiply<32, true, N>(panel, x, first, out);
    return multiply<32, false, N>(panel, x, first, out);
}

void multiply_panel(const Panel& panel, const Quantized& x, int rows, int row, int height,
                    float* out) {
    for (int first = 0; first < x.n;) {
        const int count = x.n - first >= TOKENS_AT_ONCE ? TOKENS_AT_ONCE : 1;
        Floats8 sums[TOKENS_AT_ONCE];
        if (count == 1) multiply_some<1>(panel, x, first, sums);
        if (count > 1) multiply_some<TOKENS_AT_ONCE>(panel, x, first, sums);
        for (int i = 0; i < count; i++, first++) {
            float eight[8];
            store8(eight, sums[i]);
            memcpy(out + (size_t)first * rows + row, eight, sizeof(float) * (size_t)height);
        }
    }
}

}  // namespace KERNELS

#endif
