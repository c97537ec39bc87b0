// See gemm_int8.h. A few tokens at a time share each register of weights.
#include "gemm_int8.h"

#if defined(HAS_PANELS)

namespace KERNELS {

// Of each of PANEL_ROWS rows: four codes, an integer or a float.
#if defined(__AVX512BW__)
typedef Bytes64 RowFours;
typedef Ints16 RowInts;
typedef Floats16 RowFloats;
INLINE RowFours load_fours(const uint8_t* address) { return load64(address); }
INLINE RowFours repeat_fours(const int8_t* four) { return repeat_four16(four); }
INLINE RowInts repeat_ints(int32_t value) { return repeat_int16(value); }
INLINE RowFloats load_floats(const float* address) { return load16(address); }
INLINE void store_floats(float* address, RowFloats v) { store16(address, v); }
INLINE RowFloats repeat_floats(float value) { return repeat16(value); }
#else
typedef Bytes32 RowFours;
typedef Ints8 RowInts;
typedef Floats8 RowFloats;
INLINE RowFours load_fours(const uint8_t* address) { return load32(address); }
INLINE RowFours repeat_fours(const int8_t* four) { return repeat_four(four); }
INLINE RowInts repeat_ints(int32_t value) { return repeat_int(value); }
INLINE RowFloats load_floats(const float* address) { return load8(address); }
INLINE void store_floats(float* address, RowFloats v) { store8(address, v); }
INLINE RowFloats repeat_floats(float value) { return repeat8(value); }
#endif

// The panel's columns of a group of activations; see Quantized.
struct Group {
    const int8_t* codes;
    const float *scales, *sums;
    const int32_t* starts;
};

// How products of codes are added up: each into 32 bits, or first STEPS of them into 16 bits, where
// codes are so small that they cannot overflow.
constexpr int SIGNED_CODES = 0, ONE_STEP = 1;

#if defined(HAS_SHORTS)
template <int WIDTH, int STEPS, int N>
INLINE void multiply_small_codes(const uint8_t* codes, const Group& x, int col, RowInts* dots) {
    constexpr int PART = 4 * STEPS < WIDTH ? 4 * STEPS : WIDTH;
    for (int part = col; part < col + WIDTH; part += PART) {
        decltype(pairs_of(RowFours{}, RowFours{})) pairs[N] = {};
#pragma GCC unroll 8
        for (int four = part; four < part + PART; four += 4) {
            const RowFours w = load_fours(codes + PANEL_ROWS * four);
            for (int i = 0; i < N; i++) {
                pairs[i] += pairs_of(w, repeat_fours(x.codes + PANEL_TOKENS * four + 4 * i));
            }
        }
        for (int i = 0; i < N; i++) dots[i] = add_pairs(dots[i], pairs[i]);
    }
}
#endif

// Adds the products of `WIDTH` columns from `col` on, for the group's first N tokens.
template <int WIDTH, int STEPS, int N>
INLINE void multiply_codes(const uint8_t* codes, const Group& x, int col, RowInts* dots) {
#if defined(HAS_SHORTS)
    if constexpr (STEPS > 1) return multiply_small_codes<WIDTH, STEPS, N>(codes, x, col, dots);
#endif
    codes += PANEL_ROWS * col;
    const int8_t* x_codes = x.codes + PANEL_TOKENS * col;
#pragma GCC unroll 2
    for (int four = 0; four < WIDTH; four += 4) {
        const RowFours w = load_fours(codes + PANEL_ROWS * four);
        for (int i = 0; i < N; i++) {
            const RowFours xs = repeat_fours(x_codes + PANEL_TOKENS * four + 4 * i);
            dots[i] =
                STEPS == SIGNED_CODES ? add_dot_signed(dots[i], w, xs) : add_dot(dots[i], w, xs);
        }
    }
}

#if defined(__ARM_FEATURE_MATMUL_INT8)
// The same integers for pairs of tokens: smmla takes two rows and two tokens over eight columns.
template <int WIDTH, int N>
INLINE void multiply_pairs(const uint8_t* codes, const Group& x, int col, Ints8* dots) {
    int32x4_t sums[N / 2][4] = {};  // of two rows with two tokens each
    for (int eight = col; eight < col + WIDTH; eight += 8) {
        const Bytes32 left = load32(codes + 8 * eight), right = load32(codes + 8 * eight + 32);
        const int8x16_t rows[4] = {
            (int8x16_t)vzip1q_s32((int32x4_t)left.low, (int32x4_t)right.low),
            (int8x16_t)vzip2q_s32((int32x4_t)left.low, (int32x4_t)right.low),
            (int8x16_t)vzip1q_s32((int32x4_t)left.high, (int32x4_t)right.high),
            (int8x16_t)vzip2q_s32((int32x4_t)left.high, (int32x4_t)right.high)};
        for (int i = 0; i < N / 2; i++) {
            const int8_t* pair = x.codes + PANEL_TOKENS * eight + 8 * i;
            const int32x2_t low = (int32x2_t)vld1_s8(pair);
            const int32x2_t high = (int32x2_t)vld1_s8(pair + 4 * PANEL_TOKENS);
            const int8x16_t xs =
                (int8x16_t)vcombine_s32(vzip1_s32(low, high), vzip2_s32(low, high));
            for (int r = 0; r < 4; r++) sums[i][r] = vmmlaq_s32(sums[i][r], rows[r], xs);
        }
    }
    for (int i = 0; i < N / 2; i++) {
        const int32x4_t* of = sums[i];
        Ints8 *even = dots + 2 * i, *odd = even + 1;
        even->low += (Ints4)vuzp1q_s32(of[0], of[1]);
        even->high += (Ints4)vuzp1q_s32(of[2], of[3]);
        odd->low += (Ints4)vuzp2q_s32(of[0], of[1]);
        odd->high += (Ints4)vuzp2q_s32(of[2], of[3]);
    }
}
#endif

// `WIDTH` columns from `col` on as floats, not yet times the activations' scales.
template <int WIDTH, int STEPS, int N>
INLINE void multiply_width(const uint8_t* codes, const Group& x, int col, RowFloats* out) {
    const int32_t* starts = x.starts + PANEL_TOKENS * (col / WIDTH);
    RowInts dots[N];
    for (int i = 0; i < N; i++) dots[i] = repeat_ints(starts[i]);
#if defined(__ARM_FEATURE_MATMUL_INT8)
    if constexpr (N % 2 == 0) {
        multiply_pairs<WIDTH, N>(codes, x, col, dots);
    } else {
        multiply_codes<WIDTH, STEPS, N>(codes, x, col, dots);
    }
#else
    multiply_codes<WIDTH, STEPS, N>(codes, x, col, dots);
#endif
    for (int i = 0; i < N; i++) out[i] = floats_of(dots[i]);
}

template <int WIDTH, int N>
INLINE void add_offsets(const Panel& panel, const Group& x, int col, RowFloats* out) {
    const RowFloats offsets = load_floats(panel.offsets + PANEL_ROWS * (col / WIDTH));
    const float* sums = x.sums + PANEL_TOKENS * (col / WIDTH);
    for (int i = 0; i < N; i++) out[i] = fused(offsets, repeat_floats(sums[i]), out[i]);
}

// `N` is a constant at each call. A sum is made of the same steps whatever N is.
template <int WIDTH, int STEPS, bool OFFSETS, int N>
static void multiply(const Panel& panel, const Group& x, RowFloats* out) {
    for (int col = 0; col < panel.cols; col += 32) {
        const float* x_scales = x.scales + PANEL_TOKENS * (col / 32);
        const float* scales = panel.scales + PANEL_ROWS * (col / WIDTH);
        const RowFloats scale = load_floats(scales);
        RowFloats dots[N];
        multiply_width<WIDTH, STEPS, N>(panel.codes, x, col, dots);
        if constexpr (WIDTH == 16) {
            const RowFloats second_scale = load_floats(scales + PANEL_ROWS);
            RowFloats second[N];
            multiply_width<WIDTH, STEPS, N>(panel.codes, x, col + 16, second);
            for (int i = 0; i < N; i++) {
                const RowFloats both = fused(second[i], second_scale, dots[i] * scale);
                out[i] = fused(both, repeat_floats(x_scales[i]), out[i]);
            }
        } else {
            for (int i = 0; i < N; i++) {
                out[i] = fused(dots[i], scale * repeat_floats(x_scales[i]), out[i]);
            }
        }
        if constexpr (OFFSETS) {
            for (int sub = col; sub < col + 32; sub += WIDTH) {
                add_offsets<WIDTH, N>(panel, x, sub, out);
            }
        }
    }
}

template <int WIDTH, int STEPS, int N>
static void multiply_form(const Panel& panel, const Group& x, RowFloats* out) {
    if (panel.has_offsets) return multiply<WIDTH, STEPS, true, N>(panel, x, out);
    multiply<WIDTH, STEPS, false, N>(panel, x, out);
}

template <int WIDTH, int N>
static void multiply_codes_of(const Panel& panel, const Group& x, RowFloats* out) {
    if constexpr (!FULL_BYTES) {
        if (panel.bits == 8) return multiply_form<WIDTH, SIGNED_CODES, N>(panel, x, out);
    }
#if defined(HAS_SHORTS)
    // as many steps as stay below 2^15, of two products each with activations up to 127
    static_assert(8 * 2 * 15 * 127 < 1 << 15 && 4 * 2 * 31 * 127 < 1 << 15);
    if (panel.bits <= 4) return multiply_form<WIDTH, 8, N>(panel, x, out);
    if (panel.bits == 5) return multiply_form<WIDTH, 4, N>(panel, x, out);
    // two steps of 6 bits gained nothing
#endif
    multiply_form<WIDTH, ONE_STEP, N>(panel, x, out);
}

// Writes the first `height` rows of a register, or adds them.
INLINE void write_rows(RowFloats sums, bool add, int height, float* out) {
    if (height == PANEL_ROWS) {
        store_floats(out, add ? sums + load_floats(out) : sums);
        return;
    }
    float rows[PANEL_ROWS];
    store_floats(rows, sums);
    for (int r = 0; r < height; r++) out[r] = add ? rows[r] + out[r] : rows[r];
}

// `count` <= N tokens, whose sums lie at out, out + stride, ..
template <int N>
static void multiply_tokens(const Panel& panel, const Group& x, int width, int count, int height,
                            float* out, ptrdiff_t stride) {
    RowFloats sums[N];
    for (int i = 0; i < N; i++) sums[i] = repeat_floats(0);
    for (int i = 0; i < count; i++) __builtin_prefetch(out + i * stride, 1);
    if (width == 16) multiply_codes_of<16, N>(panel, x, sums);
    if (width == 32) multiply_codes_of<32, N>(panel, x, sums);
    for (int i = 0; i < count; i++) write_rows(sums[i], panel.first > 0, height, out + i * stride);
}

void gemm_int8(const Panel& panel, const Quantized& x, int rows, int row, int height, float* out) {
    out += row;
    for (int first = 0; first < x.n; first += PANEL_TOKENS, out += PANEL_TOKENS * (ptrdiff_t)rows) {
        const size_t at = (size_t)first * x.cols + (size_t)panel.first * PANEL_TOKENS;
        const Group group = {x.codes + at, x.scales + at / 32, x.sums + at / x.width,
                             x.starts + at / x.width};
        const int count = x.n - first < PANEL_TOKENS ? x.n - first : PANEL_TOKENS;
        if (count == 1) {
            multiply_tokens<1>(panel, group, x.width, count, height, out, rows);
        } else if (2 * count <= PANEL_TOKENS) {
            multiply_tokens<PANEL_TOKENS / 2>(panel, group, x.width, count, height, out, rows);
        } else {
            multiply_tokens<PANEL_TOKENS>(panel, group, x.width, count, height, out, rows);
        }
    }
}

}  // namespace KERNELS

#endif
