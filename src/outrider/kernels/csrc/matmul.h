/* Multiplies a few rows by a large matrix, at the speed of memory.
 *
 * A tile keeps MR rows x NR panels of sums in registers while it passes once over the inputs, so
 * each weight is read from memory once for all rows.
 *
 * Every sum is computed input by input in order, in its own vector element. The result of a row has
 * the same bits for any MR, NR, number of threads and other rows: speculation cannot change the
 * text. (Sums of integers are exact in any order.) */
#ifndef OUTRIDER_MATMUL_H
#define OUTRIDER_MATMUL_H

#include "tiles.h"

/* Number of vectors of sums in registers, and number of rows that share a pass over a strip. */
#if defined(__AVX512F__)
#define TILE 16
#define MOST_ROWS 8
#else
#define TILE 4
#define MOST_ROWS 3
#endif
#define STRIP_BYTES (384 << 10)

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

INLINE Rows from_row(const Matrix *w, Rows x, int64_t row) {
    const int64_t quants = is_grouped(w) ? (int64_t)w->groups * GROUP : (int64_t)w->quads * 4;
    const int64_t scales = is_grouped(w) ? w->groups : 1;
    return (Rows){x.values + row * w->inputs, x.quants + row * quants, x.scales + row * scales,
                  x.sums + row * scales * 2};
}

typedef void (*Tile)(const Matrix *, Rows, int, int, const Sink *);

/* Tiles of eight, four and two panels, by their number of rows. */
typedef struct { Tile eight, four[5], two[9]; } Tiles;

#define TILE_OF(KIND, PRODUCTS, MR, NR)                                                          \
    static __attribute__((noinline)) void KIND##_##MR##x##NR(const Matrix *w, Rows x, int row,   \
                                                             int panel, const Sink *sink) {      \
        f32x16 out[8][8];                                                                        \
        PRODUCTS(w, from_row(w, x, row), panel, MR, NR, out);                                    \
        put(w, sink, row, panel, MR, NR, out);                                                   \
    }
#if defined(__AVX512F__)
#define TILES_OF(KIND, PRODUCTS)                                                                 \
    TILE_OF(KIND, PRODUCTS, 1, 8)                                                                \
    TILE_OF(KIND, PRODUCTS, 1, 4) TILE_OF(KIND, PRODUCTS, 2, 4)                                  \
    TILE_OF(KIND, PRODUCTS, 3, 4) TILE_OF(KIND, PRODUCTS, 4, 4)                                  \
    TILE_OF(KIND, PRODUCTS, 1, 2) TILE_OF(KIND, PRODUCTS, 2, 2)                                  \
    TILE_OF(KIND, PRODUCTS, 3, 2) TILE_OF(KIND, PRODUCTS, 4, 2)                                  \
    TILE_OF(KIND, PRODUCTS, 5, 2) TILE_OF(KIND, PRODUCTS, 6, 2)                                  \
    TILE_OF(KIND, PRODUCTS, 7, 2) TILE_OF(KIND, PRODUCTS, 8, 2)                                  \
    static const Tiles KIND = {                                                                  \
        KIND##_1x8,                                                                              \
        {0, KIND##_1x4, KIND##_2x4, KIND##_3x4, KIND##_4x4},                                     \
        {0, KIND##_1x2, KIND##_2x2, KIND##_3x2, KIND##_4x2, KIND##_5x2, KIND##_6x2, KIND##_7x2,  \
         KIND##_8x2}};
#else
#define TILES_OF(KIND, PRODUCTS)                                                                 \
    TILE_OF(KIND, PRODUCTS, 1, 4) TILE_OF(KIND, PRODUCTS, 1, 2)                                  \
    TILE_OF(KIND, PRODUCTS, 2, 2) TILE_OF(KIND, PRODUCTS, 3, 2)                                  \
    static const Tiles KIND = {0, {0, KIND##_1x4}, {0, KIND##_1x2, KIND##_2x2, KIND##_3x2}};
#endif

#define FLOAT32_TILE(w, x, panel, MR, NR, out) tile_floats(0, w, x, panel, MR, NR, out)
#define FLOAT16_TILE(w, x, panel, MR, NR, out) tile_floats(1, w, x, panel, MR, NR, out)
#define GROUPS8_TILE(w, x, panel, MR, NR, out) tile_groups(GROUPS8, w, x, panel, MR, NR, out)
#define GROUPS4_TILE(w, x, panel, MR, NR, out) tile_groups(GROUPS4, w, x, panel, MR, NR, out)
#define MINIMUM_TILE(w, x, panel, MR, NR, out) tile_groups(GROUPS4_MIN, w, x, panel, MR, NR, out)
#define FINE_TILE(w, x, panel, MR, NR, out) tile_groups(GROUPS4_FINE, w, x, panel, MR, NR, out)

TILES_OF(float32, FLOAT32_TILE)
TILES_OF(int8, tile_int8)
TILES_OF(bfloat16, tile_bfloat16)
TILES_OF(float16, FLOAT16_TILE)
TILES_OF(groups8, GROUPS8_TILE)
TILES_OF(groups4, GROUPS4_TILE)
TILES_OF(groups4_min, MINIMUM_TILE)
TILES_OF(groups4_fine, FINE_TILE)
TILES_OF(groups6, tile_six)

INLINE const Tiles *tiles_of(int kind) {
    static const Tiles *const known[] = {&float32, &int8,        &bfloat16,     &float16, &groups8,
                                         &groups4, &groups4_min, &groups4_fine, &groups6};
    return known[kind];
}

/* The widest tile for `rows` rows that fits `panels` and the registers. */
INLINE Tile widest(const Tiles *tiles, int rows, int panels, int *width) {
    if (rows == 1 && panels >= 8 && tiles->eight) return *width = 8, tiles->eight;
    if (rows <= TILE / 4 && panels >= 4) return *width = 4, tiles->four[rows];
    return *width = 2, tiles->two[rows];
}

INLINE void strip(const Matrix *w, Rows x, int row, int rows, const Sink *sink, int first,
                  int last) {
    const Tiles *tiles = tiles_of(w->kind);
    for (int panel = first, width; panel < last; panel += width)
        widest(tiles, rows, last - panel, &width)(w, x, row, panel, sink);
}

/* Computes panels `first .. last` (both even) of all rows, strip by strip: a strip stays in the
 * cache while all rows use it. */
INLINE void multiply(const Matrix *w, Rows x, int rows, const Sink *sink, int first, int last) {
    const int wide = panel_bytes(w) * 8 <= STRIP_BYTES ? 8 : 2;
    for (int panel = first; panel < last; panel += wide) {
        int end = panel + wide < last ? panel + wide : last;
        for (int row = 0; row < rows; row += MOST_ROWS)
            strip(w, x, row, rows - row < MOST_ROWS ? rows - row : MOST_ROWS, sink, panel, end);
    }
}

#endif
