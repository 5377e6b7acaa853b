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

/* The same for each group of 32 inputs; `sums` are those of the integers of its halves. The last group is filled
 * with zeros. */
static void quantize_groups(const float *x, int size, int8_t *quants, float *scales, int32_t *sums) {
    for (int g = 0; g * GROUP < size; g++, x += GROUP, quants += GROUP) {
        float part[GROUP] = {0};
        const int left = size - g * GROUP;
        if (left < GROUP) memcpy(part, x, sizeof(float) * left);
        f32x16 low = load(left < GROUP ? part : x), high = load((left < GROUP ? part : x) + LANES);
        const float bad = spoiled16(low) + spoiled16(high);
        if (bad != 0) low = high = (f32x16){0};
        const float top = largest16(max16(abs16(low), abs16(high)));
        scales[g] = top / 127.0f + bad;
        const f32x16 steps = splat(top > 0 ? 127.0f / top : 0.0f);
        const i32x16 first = rounded16(low, steps), second = rounded16(high, steps);
        *(i8x16 *)quants = low_bytes(first);
        *(i8x16 *)(quants + LANES) = low_bytes(second);
        sums[2 * g] = total16(first), sums[2 * g + 1] = total16(second);
    }
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
