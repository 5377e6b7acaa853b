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

/* Quantizes a row to 255 steps of its own largest value. A row of zeros stays zero; a row that
 * holds NaN or infinity gets the scale NaN, so that its products are NaN. */
static void quantize(const float *x, int size, int padded_size, int8_t *quants, float *scale) {
    f32x16 best = (f32x16){0}, odd = (f32x16){0};
    float top = 0, bad = 0;
    int i = 0;
    for (; i + LANES <= size; i += LANES) {
        best = max16(abs16(load(x + i)), best);
        odd = odd + load(x + i) * 0.0f; /* 0 unless NaN or infinite */
    }
    for (; i < size; i++) {
        if (fabsf(x[i]) > top) top = fabsf(x[i]);
        bad += x[i] * 0.0f;
    }
    float widest = highest16(best);
    if (widest > top) top = widest;
    bad += sum16(odd);
    *scale = top / 127.0f + bad;
    const f32x16 steps = splat(top > 0 && top < INFINITY ? 127.0f / top : 0.0f);
    const f32x16 magic = splat(12582912.0f);
    for (i = 0; i + LANES <= size; i += LANES) {
        f32x16 rounded = (load(x + i) * steps + magic) - magic;
        i32x16 whole = __builtin_convertvector(bad == 0 ? rounded : (f32x16){0}, i32x16);
        *(i8x16 *)(quants + i) = __builtin_convertvector(whole + OFFSET, i8x16);
    }
    for (; i < padded_size; i++) {
        float rounded = i < size && bad == 0 ? (x[i] * steps[0] + magic[0]) - magic[0] : 0.0f;
        quants[i] = (int8_t)((int)rounded + OFFSET);
    }
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
