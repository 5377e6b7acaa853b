/* Packed matrices, and rows in the form that a matrix reads.
 *
 * A matrix is packed in panels of 16 outputs, which come in pairs:
 *
 * - FLOAT32, FLOAT16: the 16 weights of each input, input by input.
 * - BFLOAT16: for every two inputs, 16 pairs of weights.
 * - INT8: for every four inputs, 16 groups of four weights, the layout of dot-product instructions.
 * - GROUPS8: two panels side by side, for every group of 32 inputs: 8 quads of 2 x 64 integers, then
 *   32 scales in float16.
 * - GROUPS4: the same with 4 bits: the low half of a byte belongs to the first panel, the high half
 *   to the second one. The integer 8 stands for 0.
 * - GROUPS4_MIN: 32 minimums in float16 follow the scales, and are added to the weights.
 * - GROUPS4_FINE: 32 factors of the scale and 32 of the minimum follow the integers, one byte each;
 *   scales and minimums are shared by several groups and lie in `spans`.
 * - GROUPS6: 6 bits, of which 32 stands for 0. Two quads of the low four bits, as in GROUPS4, are
 *   followed by 64 bytes with their high two bits: bits 0 and 1 of a byte belong to the first quad
 *   and panel, then come the second panel, and the second quad. After the integers of a group, 32
 *   signed factors of the scale for its first 16 inputs and 32 for the others, one byte each. */
#ifndef OUTRIDER_MATRIX_H
#define OUTRIDER_MATRIX_H

#include "vectors.h"

enum {
    FLOAT32 = 0,
    INT8 = 1,
    BFLOAT16 = 2,
    FLOAT16 = 3,
    GROUPS8 = 4,
    GROUPS4 = 5,
    GROUPS4_MIN = 6,
    GROUPS4_FINE = 7,
    GROUPS6 = 8
};
enum { GROUP = 32, QUADS_A_GROUP = GROUP / 4 };

typedef struct {
    int32_t kind;
    int32_t outputs, inputs; /* as in the checkpoint */
    int32_t panels;          /* outputs / 16, rounded up to an even number */
    int32_t quads;           /* inputs / 4, rounded up */
    int32_t groups;          /* inputs / 32, rounded up */
    int32_t span;            /* groups that share a scale (GROUPS4_FINE, GROUPS6) */
    const void *data;
    const float *scale;      /* [panels * 16] of each output (INT8) */
    const float *sum;        /* [panels * 16] of its weights, for unsigned activations (INT8) */
    const float *bias;       /* [panels * 16] or NULL */
    const uint16_t *spans;   /* [panels / 2, spans, 2, 32] scales and minimums (GROUPS4_FINE),
                              * [panels / 2, spans, 32] scales (GROUPS6) */
} Matrix;

typedef struct {
    const float *values;  /* [rows, inputs] (FLOAT32, BFLOAT16, FLOAT16) */
    const int8_t *quants; /* [rows, quads * 4] (INT8), [rows, groups * 32] */
    const float *scales;  /* [rows] (INT8), [rows, groups] */
    const int32_t *sums;  /* [rows, groups, 2] of the quants, for each half of a group */
} Rows;

/* VNNI multiplies unsigned by signed. In groups, the weights are unsigned: 128 is added to 8 bits.
 * For INT8, the activations are, and the sum of the weights corrects it. The other instructions
 * multiply signed by signed. */
#if (defined(__AVX512VNNI__) && defined(__AVX512F__)) || defined(__AVXVNNI__)
#define OFFSET 128
#else
#define OFFSET 0
#endif

INLINE int is_grouped(const Matrix *w) { return w->kind >= GROUPS8; }

/* The integer that stands for the weight 0. */
INLINE int zero_of(int kind) {
    return kind == GROUPS8 ? OFFSET : kind == GROUPS4 ? 8 : kind == GROUPS6 ? 32 : 0;
}

/* Bytes of one group of two panels. */
INLINE int group_bytes(int kind) {
    const int scales = 2 * LANES * 2, quants = 2 * LANES * GROUP;
    return kind == GROUPS8 ? quants + scales
         : kind == GROUPS6 ? quants / 4 * 3 + scales
         : kind == GROUPS4 ? quants / 2 + scales
                           : quants / 2 + 2 * (kind == GROUPS4_MIN ? scales : scales / 2);
}

/* Bytes of one panel. */
INLINE int64_t panel_bytes(const Matrix *w) {
    switch (w->kind) {
    case FLOAT32: return w->inputs * 64ll;
    case FLOAT16: return w->inputs * 32ll;
    case BFLOAT16: return (w->inputs + 1) / 2 * 64ll;
    case INT8: return w->quads * 64ll;
    default: return (int64_t)w->groups * group_bytes(w->kind) / 2;
    }
}

/* Numbers in 16 bits of each span of two panels. */
INLINE int span_size(int kind) { return kind == GROUPS6 ? 2 * LANES : 4 * LANES; }

/* Scales and minimums of the span of group `g`, of the pair of panels `pair`. */
INLINE const uint16_t *span_of(const Matrix *w, int pair, int g) {
    const int spans = (w->groups + w->span - 1) / w->span;
    return w->spans + ((int64_t)pair * spans + g / w->span) * span_size(w->kind);
}

INLINE float bfloat(uint16_t brief) {
    uint32_t bits = (uint32_t)brief << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* One weight of a group: `place` is the group of two panels, `lane` counts their 32 outputs. */
static float group_weight(const Matrix *w, const uint8_t *place, int pair, int g, int lane, int i) {
    const int half = lane / LANES, column = lane % LANES, at = i / 4 * 64 + column * 4 + i % 4;
    const uint16_t *scales = (const uint16_t *)(place + group_bytes(GROUPS4) - 64);
    if (w->kind == GROUPS8) {
        const int whole = OFFSET ? place[i / 4 * 128 + half * 64 + at % 64]
                                 : ((const int8_t *)place)[i / 4 * 128 + half * 64 + at % 64];
        scales = (const uint16_t *)(place + group_bytes(GROUPS8) - 64);
        return (float)(whole - OFFSET) * half_float(scales[lane]);
    }
    if (w->kind == GROUPS6) {
        const uint8_t *two = place + i / 8 * 192; /* two quads of both panels */
        const int low = two[i / 4 % 2 * 64 + at % 64], high = two[128 + at % 64];
        const int six = (half ? low >> 4 : low & 15) | (high >> (i / 4 % 2 * 4 + half * 2) & 3) << 4;
        const int8_t *fine = (const int8_t *)place + group_bytes(GROUPS6) - 64;
        return half_float(span_of(w, pair, g)[lane]) * fine[i / LANES * 2 * LANES + lane] * (six - 32);
    }
    const int whole = half ? place[at] >> 4 : place[at] & 15;
    if (w->kind == GROUPS4) return (float)(whole - 8) * half_float(scales[lane]);
    if (w->kind == GROUPS4_MIN)
        return (float)whole * half_float(scales[lane]) + half_float(scales[2 * LANES + lane]);
    const uint8_t *fine = (const uint8_t *)scales;
    const uint16_t *spans = span_of(w, pair, g);
    return (float)whole * (half_float(spans[lane]) * fine[lane]) -
           half_float(spans[2 * LANES + lane]) * fine[2 * LANES + lane];
}

/* Writes the weights of one output to `out` [inputs]. */
static __attribute__((unused)) void unpack_row(const Matrix *w, int output, float *out) {
    const int panel = output / LANES, lane = output % LANES, pair = panel / 2;
    const uint8_t *data = (const uint8_t *)w->data + panel * panel_bytes(w);
    if (is_grouped(w)) data = (const uint8_t *)w->data + pair * 2 * panel_bytes(w);
    for (int i = 0; i < w->inputs; i++) {
        if (w->kind == FLOAT32) out[i] = ((const float *)data)[(int64_t)i * LANES + lane];
        else if (w->kind == FLOAT16)
            out[i] = half_float(((const uint16_t *)data)[(int64_t)i * LANES + lane]);
        else if (w->kind == BFLOAT16)
            out[i] = bfloat(((const uint16_t *)data)[(int64_t)i / 2 * 32 + lane * 2 + i % 2]);
        else if (w->kind == INT8)
            out[i] = ((const int8_t *)data)[(int64_t)i / 4 * 64 + lane * 4 + i % 4] * w->scale[output];
        else
            out[i] = group_weight(w, data + (int64_t)(i / GROUP) * group_bytes(w->kind), pair,
                                  i / GROUP, output % (2 * LANES), i % GROUP);
    }
}

#endif
