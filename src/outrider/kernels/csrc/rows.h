/* Operations on one row between two matrices. */
#ifndef OUTRIDER_ROWS_H
#define OUTRIDER_ROWS_H

#include <math.h>

#include "model.h"

/* x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019). */
static void rms_norm(const float *x, const float *weight, float eps, int size, float *out) {
    f32x16 squares = (f32x16){0};
    float tail = 0;
    int i = 0;
    for (; i + LANES <= size; i += LANES) squares = fma16(load(x + i), load(x + i), squares);
    for (; i < size; i++) tail += x[i] * x[i];
    float factor = 1.0f / sqrtf((sum16(squares) + tail) / (float)size + eps);
    for (i = 0; i + LANES <= size; i += LANES)
        store(out + i, load(x + i) * splat(factor) * load(weight + i));
    for (; i < size; i++) out[i] = x[i] * factor * weight[i];
}

/* Adds the result of attention or of an MLP, normed (unless `weight` is NULL) and times `factor`. */
static void add_row(const float *result, const float *weight, float eps, float factor, int size,
                    float *scratch, float *stream) {
    const float *normed = result;
    int i = 0;
    if (weight) rms_norm(result, weight, eps, size, scratch), normed = scratch;
    for (; i + LANES <= size; i += LANES)
        store(stream + i, load(stream + i) + load(normed + i) * factor);
    for (; i < size; i++) stream[i] = stream[i] + normed[i] * factor;
}

/* Divides logits and bounds them smoothly; `count` is a multiple of 16. */
static void finish_logits(float *logits, int64_t count, float divisor, float cap) {
    for (int64_t i = 0; i < count; i += LANES) {
        f32x16 x = load(logits + i) / divisor;
        store(logits + i, cap ? soft_cap16(x, cap) : x);
    }
}

static void scale_row(float *row, int size, float factor) {
    for (int i = 0; i < size && factor != 1.0f; i++) row[i] *= factor;
}

/* The largest magnitude of a row, and 0 or, if it holds NaN or infinity, NaN. */
static float largest_of(const float *x, int size, float *bad) {
    f32x16 best = (f32x16){0}, odd = (f32x16){0};
    float top = 0;
    int i = 0;
    *bad = 0;
    for (; i + LANES <= size; i += LANES) {
        best = max16(abs16(load(x + i)), best);
        odd = odd + load(x + i) * 0.0f; /* 0 unless NaN or infinite */
    }
    for (; i < size; i++) {
        if (fabsf(x[i]) > top) top = fabsf(x[i]);
        *bad += x[i] * 0.0f;
    }
    float widest = highest16(best);
    *bad += sum16(odd);
    return widest > top ? widest : top;
}

/* Rounds x * steps to whole numbers; adding and subtracting 1.5 * 2^23 rounds to even. */
INLINE i32x16 rounded16(f32x16 x, f32x16 steps) {
    const f32x16 magic = splat(12582912.0f);
    return __builtin_convertvector((x * steps + magic) - magic, i32x16);
}

/* Quantizes a row to 255 steps of its own largest value. A row of zeros stays zero; a row that
 * holds NaN or infinity gets the scale NaN, so that its products are NaN. */
static void quantize(const float *x, int size, int padded_size, int8_t *quants, float *scale) {
    float bad;
    const float top = largest_of(x, size, &bad);
    *scale = top / 127.0f + bad;
    const f32x16 steps = splat(top > 0 && bad == 0 ? 127.0f / top : 0.0f);
    for (int i = 0; i < padded_size; i += LANES) {
        float part[LANES] = {0};
        int count = size - i < LANES ? size - i : LANES;
        if (bad == 0 && count > 0) memcpy(part, x + i, sizeof(float) * count);
        i8x16 bytes = low_bytes(rounded16(load(part), steps) + OFFSET);
        memcpy(quants + i, &bytes, padded_size - i < LANES ? padded_size - i : LANES);
    }
}

/* Quantizes one group of 32 inputs likewise; `sums` are those of the integers of its halves. Groups
 * below LEAST, whose steps would be infinite, become zeros. */
#define LEAST 1e-36f
#if HALF_TILES
INLINE void quantize_group(const float *x, int8_t *quants, float *scale, int32_t *sums) {
    const __m256 zero = _mm256_setzero_ps(), sign = _mm256_set1_ps(-0.0f);
    const __m256 magic = _mm256_set1_ps(12582912.0f); /* as in `rounded16` */
    __m256 part[4], most = zero, odd = zero;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        part[i] = _mm256_loadu_ps(x + i * HALF);
        odd = _mm256_or_ps(odd, _mm256_cmp_ps(_mm256_mul_ps(part[i], zero), zero, _CMP_UNORD_Q));
        most = _mm256_max_ps(_mm256_andnot_ps(sign, part[i]), most);
    }
    float bad = 0;
    if (__builtin_expect(_mm256_movemask_ps(odd), 0)) {
        bad = spoiled16(load(x)) + spoiled16(load(x + LANES));
        for (int i = 0; i < 4; i++) part[i] = zero;
        most = zero;
    }
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    const float top = _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
    *scale = top / 127.0f + bad;
    const __m256 steps = _mm256_set1_ps(top > LEAST ? 127.0f / top : 0.0f);
    __m256i whole[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m256 moved = _mm256_add_ps(_mm256_mul_ps(part[i], steps), magic);
        whole[i] = _mm256_cvttps_epi32(_mm256_sub_ps(moved, magic));
    }
    const __m256i low = _mm256_packs_epi32(whole[0], whole[1]);
    const __m256i high = _mm256_packs_epi32(whole[2], whole[3]);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((__m256i *)quants,
                        _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order));
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i both = _mm256_hadd_epi32(_mm256_madd_epi16(low, ones), _mm256_madd_epi16(high, ones));
    both = _mm256_hadd_epi32(both, both); /* the first half, then the second one */
    const __m128i total = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    sums[0] = _mm_cvtsi128_si32(total), sums[1] = _mm_extract_epi32(total, 1);
}
#else
INLINE void quantize_group(const float *x, int8_t *quants, float *scale, int32_t *sums) {
    f32x16 low = load(x), high = load(x + LANES);
    const float bad = spoiled16(low) + spoiled16(high);
    if (bad != 0) low = high = (f32x16){0};
    const float top = largest16(max16(abs16(low), abs16(high)));
    *scale = top / 127.0f + bad;
    const f32x16 steps = splat(top > LEAST ? 127.0f / top : 0.0f);
    const i32x16 first = rounded16(low, steps), second = rounded16(high, steps);
    *(i8x16 *)quants = low_bytes(first);
    *(i8x16 *)(quants + LANES) = low_bytes(second);
    sums[0] = total16(first), sums[1] = total16(second);
}
#endif

/* The same for each group of 32 inputs. The last group is filled with zeros. */
static void quantize_groups(const float *x, int size, int8_t *quants, float *scales, int32_t *sums) {
    int g = 0;
    for (; (g + 1) * GROUP <= size; g++)
        quantize_group(x + g * GROUP, quants + g * GROUP, scales + g, sums + 2 * g);
    if (g * GROUP == size) return;
    float part[GROUP] = {0};
    memcpy(part, x + g * GROUP, sizeof(float) * (size - g * GROUP));
    quantize_group(part, quants + g * GROUP, scales + g, sums + 2 * g);
}

INLINE int reads_integers(const Matrix *w) { return w->kind == INT8 || is_grouped(w); }

/* Rows as matrices of integers read them; see `Rows`. */
typedef struct {
    int8_t *quants;
    float *scales;
    int32_t *sums;
} Forms;

/* Writes `x` as row `row` in the form that matrix `w` reads, if it reads integers. */
static void write_form(const Matrix *w, const float *x, int64_t row, Forms forms) {
    if (w->kind == INT8)
        quantize(x, w->inputs, w->quads * 4, forms.quants + row * w->quads * 4, forms.scales + row);
    else if (is_grouped(w))
        quantize_groups(x, w->inputs, forms.quants + row * w->groups * GROUP,
                        forms.scales + row * w->groups, forms.sums + row * w->groups * 2);
}

INLINE f32x16 silu16(f32x16 x) { return x / (exp16(-x) + 1.0f); }
static f32x16 silu(f32x16 x) { return silu16(x); }
static f32x16 relu(f32x16 x) { return select16(x != x, x, max16(x, (f32x16){0})); }
static f32x16 gelu(f32x16 x) {
    for (int i = 0; i < LANES; i++) x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678f));
    return x;
}
/* 0.5 x (1 + tanh(y)) = x sigmoid(2 y) */
static f32x16 gelu_tanh(f32x16 x) {
    f32x16 y = (x + x * x * x * 0.044715f) * 0.79788456f;
    return x / (exp16(y * -2.0f) + 1.0f);
}

static Activation activation(int kind) {
    static const Activation known[] = {silu, gelu, gelu_tanh, relu};
    return known[kind];
}

#endif
