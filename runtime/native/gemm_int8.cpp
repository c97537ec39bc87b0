// See gemm_int8.h. A few tokens at a time share each register of weights.
#include "gemm_int8.h"

#include "gemm_short.h"

#if defined(HAS_PANELS)

namespace KERNELS {

// Adds the products of `WIDTH` columns from `col` on, for the group's first N tokens.
template <int WIDTH, bool SIGNED_CODES, int N>
INLINE void multiply_codes(const uint8_t* codes, const Group& x, int col, Ints<PANEL_ROWS>* dots) {
    codes += PANEL_ROWS * col;
    const int8_t* x_codes = x.codes + PANEL_TOKENS * col;
#pragma GCC unroll 2
    for (int four = 0; four < WIDTH; four += 4) {
        const Bytes<4 * PANEL_ROWS> w = load<4 * PANEL_ROWS>(codes + PANEL_ROWS * four);
        for (int i = 0; i < N; i++) {
            const Codes<4 * PANEL_ROWS> xs =
                repeat_four<4 * PANEL_ROWS>(x_codes + PANEL_TOKENS * four + 4 * i);
            dots[i] = SIGNED_CODES ? add_dot_signed(dots[i], w, xs) : add_dot(dots[i], w, xs);
        }
    }
}

#if defined(__ARM_FEATURE_MATMUL_INT8)
// The same integers for pairs of tokens: smmla takes two rows and two tokens over eight columns.
template <int WIDTH, int N>
INLINE void multiply_pairs(const uint8_t* codes, const Group& x, int col, Ints<8>* dots) {
    int32x4_t sums[N / 2][4] = {};  // of two rows with two tokens each
    for (int eight = col; eight < col + WIDTH; eight += 8) {
        const Bytes<32> left = load<32>(codes + 8 * eight),
                        right = load<32>(codes + 8 * eight + 32);
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
        Ints<8>*even = dots + 2 * i, *odd = even + 1;
        even->low += (Ints<4>)vuzp1q_s32(of[0], of[1]);
        even->high += (Ints<4>)vuzp1q_s32(of[2], of[3]);
        odd->low += (Ints<4>)vuzp2q_s32(of[0], of[1]);
        odd->high += (Ints<4>)vuzp2q_s32(of[2], of[3]);
    }
}
#endif

// `WIDTH` columns from `col` on as floats, not yet times the activations' scales.
template <int WIDTH, bool SIGNED_CODES, int N>
INLINE void multiply_width(const uint8_t* codes, const Group& x, int col, Floats<PANEL_ROWS>* out) {
    const int32_t* starts = x.starts + PANEL_TOKENS * (col / WIDTH);
    Ints<PANEL_ROWS> dots[N];
    for (int i = 0; i < N; i++) dots[i] = repeat<PANEL_ROWS>(starts[i]);
#if defined(__ARM_FEATURE_MATMUL_INT8)
    if constexpr (N % 2 == 0) {
        multiply_pairs<WIDTH, N>(codes, x, col, dots);
    } else {
        multiply_codes<WIDTH, SIGNED_CODES, N>(codes, x, col, dots);
    }
#else
    multiply_codes<WIDTH, SIGNED_CODES, N>(codes, x, col, dots);
#endif
    for (int i = 0; i < N; i++) out[i] = floats_of(dots[i]);
}

template <int WIDTH, int N>
INLINE void add_offsets(const Panel& panel, const Group& x, int col, Floats<PANEL_ROWS>* out) {
    const Floats<PANEL_ROWS> offsets = load<PANEL_ROWS>(panel.offsets + PANEL_ROWS * (col / WIDTH));
    const float* sums = x.sums + PANEL_TOKENS * (col / WIDTH);
    for (int i = 0; i < N; i++) out[i] = fused(offsets, repeat<PANEL_ROWS>(sums[i]), out[i]);
}

// Sums of 32 columns in 32 bits, times their scales.
template <int WIDTH, bool SIGNED_CODES, bool OFFSETS>
struct Plain {
    // `N` is a constant at each call. A sum is made of the same steps whatever N is.
    template <int N>
    static INLINE void multiply(const Panel& panel, const Group& x, Floats<PANEL_ROWS>* out) {
        for (int col = 0; col < panel.cols; col += 32) {
            const float* x_scales = x.scales + PANEL_TOKENS * (col / 32);
            const float* scales = panel.scales + PANEL_ROWS * (col / WIDTH);
            const Floats<PANEL_ROWS> scale = load<PANEL_ROWS>(scales);
            Floats<PANEL_ROWS> dots[N];
            multiply_width<WIDTH, SIGNED_CODES, N>(panel.codes, x, col, dots);
            if constexpr (WIDTH == 16) {
                const Floats<PANEL_ROWS> second_scale = load<PANEL_ROWS>(scales + PANEL_ROWS);
                Floats<PANEL_ROWS> second[N];
                multiply_width<WIDTH, SIGNED_CODES, N>(panel.codes, x, col + 16, second);
                for (int i = 0; i < N; i++) {
                    const Floats<PANEL_ROWS> both = fused(second[i], second_scale, dots[i] * scale);
                    out[i] = fused(both, repeat<PANEL_ROWS>(x_scales[i]), out[i]);
                }
            } else {
                for (int i = 0; i < N; i++) {
                    out[i] = fused(dots[i], scale * repeat<PANEL_ROWS>(x_scales[i]), out[i]);
                }
            }
            if constexpr (OFFSETS) {
                for (int sub = col; sub < col + 32; sub += WIDTH) {
                    add_offsets<WIDTH, N>(panel, x, sub, out);
                }
            }
        }
    }
};

// Writes the first `height` rows of a register, or adds them.
INLINE void write_rows(Floats<PANEL_ROWS> sums, bool add, int height, float* out) {
    if (height == PANEL_ROWS) {
        store(out, add ? sums + load<PANEL_ROWS>(out) : sums);
        return;
    }
    float rows[PANEL_ROWS];
    store(rows, sums);
    for (int r = 0; r < height; r++) out[r] = add ? rows[r] + out[r] : rows[r];
}

// Where the sums of a panel's rows go: `height` of them for each token, `stride` further.
struct Places {
    int height;
    float* out;
    ptrdiff_t stride;
};

// `count` <= N tokens.
template <class Form, int N>
INLINE void multiply_tokens(const Panel& panel, const Group& x, int count, const Places& to) {
    Floats<PANEL_ROWS> sums[N];
    for (int i = 0; i < N; i++) sums[i] = repeat<PANEL_ROWS>(0.0f);
    for (int i = 0; i < count; i++) __builtin_prefetch(to.out + i * to.stride, 1);
    Form::template multiply<N>(panel, x, sums);
    for (int i = 0; i < count; i++) {
        write_rows(sums[i], panel.first > 0, to.height, to.out + i * to.stride);
    }
}

template <class Form>
NOT_INLINED static void multiply_tail(const Panel& panel, const Group& x, int count,
                                      const Places& to) {
    if (count == 1) return multiply_tokens<Form, 1>(panel, x, count, to);
    if (2 * count <= PANEL_TOKENS) {
        return multiply_tokens<Form, PANEL_TOKENS / 2>(panel, x, count, to);
    }
    multiply_tokens<Form, PANEL_TOKENS>(panel, x, count, to);
}

template <class Form>
NOT_INLINED static void multiply_form(const Panel& panel, const Quantized& x, Places to) {
    Group group = {};
    int first = 0;
    for (; first < x.n; first += PANEL_TOKENS, to.out += PANEL_TOKENS * to.stride) {
        const size_t at = (size_t)first * x.cols + (size_t)panel.first * PANEL_TOKENS;
        group = {x.codes + at, x.scales + at / 32, x.sums + at / x.width, x.starts + at / x.width};
        if (first + PANEL_TOKENS > x.n) break;
        multiply_tokens<Form, PANEL_TOKENS>(panel, group, PANEL_TOKENS, to);
    }
    if (first < x.n) multiply_tail<Form>(panel, group, x.n - first, to);
}

template <int WIDTH, bool SIGNED_CODES>
static void multiply_plain(const Panel& panel, const Quantized& x, const Places& to) {
    if (panel.has_offsets) return multiply_form<Plain<WIDTH, SIGNED_CODES, true>>(panel, x, to);
    multiply_form<Plain<WIDTH, SIGNED_CODES, false>>(panel, x, to);
}

template <int WIDTH>
static void multiply_panel(const Panel& panel, const Quantized& x, const Places& to) {
#if defined(HAS_SHORTS)
    if (!x.in_pairs) return multiply_plain<WIDTH, true>(panel, x, to);
    if (panel.has_center) {
        if (panel.has_offsets) return multiply_form<Short<WIDTH, true, true>>(panel, x, to);
        return multiply_form<Short<WIDTH, true, false>>(panel, x, to);
    }
    if (panel.has_offsets) return multiply_form<Short<WIDTH, false, true>>(panel, x, to);
    multiply_form<Short<WIDTH, false, false>>(panel, x, to);
#else
    if constexpr (!FULL_BYTES) {
        if (panel.bits == 8) return multiply_plain<WIDTH, true>(panel, x, to);
    }
    multiply_plain<WIDTH, false>(panel, x, to);
#endif
}

void gemm_int8(const Panel& panel, const Quantized& x, int rows, int row, int height, float* out) {
    const Places to = {height, out + row, rows};
    if (x.width == 16) multiply_panel<16>(panel, x, to);
    if (x.width == 32) multiply_panel<32>(panel, x, to);
}

}  // namespace KERNELS

#endif
