/* Multiplies a few rows by a large matrix, at the speed of memory.
 *
 * The matrix is packed in panels of 16 outputs. Float32 panels hold the 16 weights of each input,
 * input by input; int8 panels hold, for every four inputs, 16 groups of four weights, the layout of
 * dot-product instructions. A tile keeps MR rows x NR panels of sums in registers while it passes
 * once over the inputs, so each weight is read from memory once for all rows.
 *
 * Every sum is computed input by input in order, in its own vector element. The result of a row has
 * the same bits for any MR, NR, number of threads and other rows: speculation cannot change the
 * text. (In int8 the sums are integers, which are exact in any order.) */
#ifndef OUTRIDER_MATMUL_H
#define OUTRIDER_MATMUL_H

#include "vectors.h"

enum { FLOAT32 = 0, INT8 = 1 };

typedef struct {
    int32_t kind;
    int32_t outputs, inputs; /* as in the checkpoint */
    int32_t panels;          /* outputs / 16, rounded up to an even number */
    int32_t quads;           /* inputs / 4, rounded up (int8) */
    const void *data;
    const float *scale;       /* [panels * 16] of each output (int8) */
    const float *sum;         /* [panels * 16] of its weights, for unsigned activations (int8) */
    const float *bias;        /* [panels * 16] or NULL */
} Matrix;

/* Rows in the form that a matrix reads. */
typedef struct {
    const float *values;  /* [rows, inputs] (float32) */
    const int8_t *quants; /* [rows, quads * 4] (int8) */
    const float *scales;  /* [rows] */
} Rows;

/* VNNI multiplies unsigned by signed: activations are stored with 128 added, which is corrected
 * with the sum of the weights. The other instructions multiply signed by signed. */
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
#define OFFSET 128
#else
#define OFFSET 0
#endif

/* Number of vectors of sums in registers, and number of rows that share a pass over a strip. */
#if defined(__AVX512F__)
#define TILE 16
#define MOST_ROWS 8
#else
#define TILE 4
#define MOST_ROWS 3
#endif
#define STRIP_BYTES (384 << 10)

/* The next panels are prefetched into the second-level cache: the prefetcher of the processor stops
 * at each page, and a panel is hardly longer than a page. */
#define PREFETCH_TO 3

INLINE i32x16 dot4(i32x16 sums, int32_t four, i8x64 weights) {
#if OFFSET
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(four), (__m512i)weights);
#elif defined(__AVX2__)
    /* |a| * (w with a's sign): 127 * 127 * 2 fits 16 bits, so nothing saturates. */
    union { i32x16 all; __m256i half[2]; } s = {sums};
    union { i8x64 all; __m256i half[2]; } w = {weights};
    __m256i a = _mm256_set1_epi32(four), ones = _mm256_set1_epi16(1);
    for (int i = 0; i < 2; i++) {
        __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(w.half[i], a));
        s.half[i] = _mm256_add_epi32(s.half[i], _mm256_madd_epi16(pairs, ones));
    }
    return s.all;
#elif defined(__ARM_FEATURE_DOTPROD)
    union { i32x16 all; int32x4_t part[4]; } s = {sums};
    union { i8x64 all; int8x16_t part[4]; } w = {weights};
    int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(four));
    for (int i = 0; i < 4; i++) s.part[i] = vdotq_s32(s.part[i], w.part[i], a);
    return s.all;
#else
    int8_t a[4];
    memcpy(a, &four, 4);
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 4; i++) sums[lane] += a[i] * weights[lane * 4 + i];
    return sums;
#endif
}

INLINE int32_t quad(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, 4);
    return four;
}

/* One tile: `out[m][n]` holds the products of row m and panel n. */
INLINE void tile_int8(const Matrix *w, Rows x, int panel, int MR, int NR, f32x16 out[][8]) {
    const int64_t stride = (int64_t)w->quads * 64;
    const int8_t *weights = (const int8_t *)w->data + panel * stride;
    const int64_t row = (int64_t)w->quads * 4;
    i32x16 sums[8][8];
    for (int m = 0; m < MR; m++)
        for (int n = 0; n < NR; n++) sums[m][n] = (i32x16){0};
    for (int q = 0; q < w->quads; q++) {
        i8x64 four[8];
#pragma GCC unroll 8
        for (int n = 0; n < NR; n++) {
            const int8_t *place = weights + n * stride + q * 64;
            four[n] = *(const i8x64 *)place;
            if (MR > 1) __builtin_prefetch(place + NR * stride, 0, PREFETCH_TO);
        }
#pragma GCC unroll 8
        for (int m = 0; m < MR; m++) {
            int32_t a = quad(x.quants + m * row + q * 4);
#pragma GCC unroll 8
            for (int n = 0; n < NR; n++) sums[m][n] = dot4(sums[m][n], a, four[n]);
        }
    }
    for (int n = 0; n < NR; n++) {
        f32x16 scale = load(w->scale + (panel + n) * LANES);
        f32x16 sum = load(w->sum + (panel + n) * LANES);
        i32x16 shift = __builtin_convertvector(sum, i32x16) * OFFSET;
        for (int m = 0; m < MR; m++) {
            f32x16 whole = __builtin_convertvector(sums[m][n] - shift, f32x16);
            out[m][n] = whole * scale * splat(x.scales[m]);
        }
    }
}

INLINE void tile_float32(const Matrix *w, Rows x, int panel, int MR, int NR, f32x16 out[][8]) {
    const int64_t stride = (int64_t)w->inputs * LANES;
    const float *weights = (const float *)w->data + panel * stride;
    f32x16 sums[8][8];
    for (int m = 0; m < MR; m++)
        for (int n = 0; n < NR; n++) sums[m][n] = (f32x16){0};
    for (int k = 0; k < w->inputs; k++) {
        f32x16 column[8];
#pragma GCC unroll 8
        for (int n = 0; n < NR; n++) {
            const float *place = weights + n * stride + k * LANES;
            column[n] = load(place);
            if (MR > 1) __builtin_prefetch(place + NR * stride, 0, PREFETCH_TO);
        }
#pragma GCC unroll 8
        for (int m = 0; m < MR; m++) {
            f32x16 a = splat(x.values[(int64_t)m * w->inputs + k]);
#pragma GCC unroll 8
            for (int n = 0; n < NR; n++) sums[m][n] = fma16(a, column[n], sums[m][n]);
        }
    }
    for (int m = 0; m < MR; m++)
        for (int n = 0; n < NR; n++) out[m][n] = sums[m][n];
}

/* The use of a product: it is written, or added to the output, or, for alternating gate and up
 * panels, combined to activation(gate) * up. */
typedef enum { WRITE, ADD, GATED } Fate;
typedef f32x16 (*Activation)(f32x16);

typedef struct {
    float *out;
    int64_t stride; /* floats from one row of `out` to the next; a multiple of 16 wide */
    Fate fate;
    Activation activation;
} Sink;

INLINE void put(const Matrix *w, const Sink *sink, int row, int panel, int MR, int NR,
                f32x16 products[][8]) {
    for (int n = 0; n < NR && w->bias; n++)
        for (int m = 0; m < MR; m++)
            products[m][n] = products[m][n] + load(w->bias + (panel + n) * LANES);
    for (int m = 0; m < MR; m++) {
        float *out = sink->out + (row + m) * sink->stride;
        if (sink->fate == GATED) {
            for (int n = 0; n + 1 < NR; n += 2)
                store(out + (panel + n) / 2 * LANES,
                      sink->activation(products[m][n]) * products[m][n + 1]);
            continue;
        }
        for (int n = 0; n < NR; n++) {
            float *place = out + (panel + n) * LANES;
            if (sink->fate == ADD) products[m][n] = load(place) + products[m][n];
            store(place, products[m][n]);
        }
    }
}

INLINE Rows from_row(const Matrix *w, Rows x, int row) {
    return (Rows){x.values + (int64_t)row * w->inputs,
                  x.quants + (int64_t)row * w->quads * 4, x.scales + row};
}

#define TILE_OF(MR, NR)                                                                         \
    static __attribute__((noinline)) void tile_##MR##x##NR(const Matrix *w, Rows x, int row,    \
                                                           int panel, const Sink *sink) {       \
        f32x16 out[8][8];                                                                       \
        Rows own = from_row(w, x, row);                                                         \
        if (w->kind == INT8) tile_int8(w, own, panel, MR, NR, out);                             \
        else tile_float32(w, own, panel, MR, NR, out);                                          \
        put(w, sink, row, panel, MR, NR, out);                                                  \
    }
TILE_OF(1, 8) TILE_OF(1, 4) TILE_OF(1, 2)
TILE_OF(2, 4) TILE_OF(2, 2)
TILE_OF(3, 4) TILE_OF(3, 2)
TILE_OF(4, 4) TILE_OF(4, 2)
TILE_OF(5, 2) TILE_OF(6, 2) TILE_OF(7, 2) TILE_OF(8, 2)

typedef void (*Tile)(const Matrix *, Rows, int, int, const Sink *);

/* The widest tile for `rows` rows that fits `panels` and the registers. */
INLINE Tile widest(int rows, int panels, int *width) {
    const Tile four[] = {0, tile_1x4, tile_2x4, tile_3x4, tile_4x4};
    const Tile two[] = {0,        tile_1x2, tile_2x2, tile_3x2, tile_4x2,
                               tile_5x2, tile_6x2, tile_7x2, tile_8x2};
    if (rows == 1 && panels >= 8) return *width = 8, tile_1x8;
    if (rows <= TILE / 4 && panels >= 4) return *width = 4, four[rows];
    return *width = 2, two[rows];
}

INLINE void strip(const Matrix *w, Rows x, int row, int rows, const Sink *sink, int first,
                  int last) {
    for (int panel = first, width; panel < last; panel += width)
        widest(rows, last - panel, &width)(w, x, row, panel, sink);
}

/* Computes panels `first .. last` (both even) of all rows, strip by strip: a strip stays in the
 * cache while all rows use it. */
INLINE void multiply(const Matrix *w, Rows x, int rows, const Sink *sink, int first, int last) {
    const int64_t panel_bytes = w->kind == INT8 ? w->quads * 64ll : w->inputs * 64ll;
    const int wide = panel_bytes * 8 <= STRIP_BYTES ? 8 : 2;
    for (int panel = first; panel < last; panel += wide) {
        int end = panel + wide < last ? panel + wide : last;
        for (int row = 0; row < rows; row += MOST_ROWS)
            strip(w, x, row, rows - row < MOST_ROWS ? rows - row : MOST_ROWS, sink, panel, end);
    }
}

#endif
