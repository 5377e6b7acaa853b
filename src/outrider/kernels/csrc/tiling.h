/* Makes the tiles of one kind of matrix, for each number of rows and panels. */
#ifndef OUTRIDER_TILING_H
#define OUTRIDER_TILING_H

#include "matmul.h"

#if HALF_TILES
#include "tiles_half.h"
#define GROUPS_OF(kind, w, x, panel, MR, NR, out) half_groups(kind, w, x, panel, MR, out)
#define SIX_OF(w, x, panel, MR, NR, out) half_six(w, x, panel, MR, out)
#define INT8_OF(w, x, panel, MR, NR, out) half_int8(w, x, panel, MR, out)
#define FLOATS_OF(kind, w, x, panel, MR, NR, out) half_floats(kind, w, x, panel, MR, out)
#else
#include "tiles.h"
#define GROUPS_OF tile_groups
#define SIX_OF tile_six
#define INT8_OF tile_int8
#define FLOATS_OF(kind, w, x, panel, MR, NR, out)                                                \
    (kind == BFLOAT16 ? tile_bfloat16(w, x, panel, MR, NR, out)                                  \
                      : tile_floats(kind == FLOAT16, w, x, panel, MR, NR, out))
#endif

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
    const Tiles KIND##_tiles = {                                                                 \
        KIND##_1x8,                                                                              \
        {0, KIND##_1x4, KIND##_2x4, KIND##_3x4, KIND##_4x4},                                     \
        {0, KIND##_1x2, KIND##_2x2, KIND##_3x2, KIND##_4x2, KIND##_5x2, KIND##_6x2, KIND##_7x2,  \
         KIND##_8x2}};
#elif HALF_TILES
#define TILES_OF(KIND, PRODUCTS)                                                                 \
    TILE_OF(KIND, PRODUCTS, 1, 2) TILE_OF(KIND, PRODUCTS, 2, 2)                                  \
    TILE_OF(KIND, PRODUCTS, 3, 2) TILE_OF(KIND, PRODUCTS, 4, 2)                                  \
    const Tiles KIND##_tiles = {                                                                 \
        0, {0}, {0, KIND##_1x2, KIND##_2x2, KIND##_3x2, KIND##_4x2}};
#else
#define TILES_OF(KIND, PRODUCTS)                                                                 \
    TILE_OF(KIND, PRODUCTS, 1, 4) TILE_OF(KIND, PRODUCTS, 1, 2)                                  \
    TILE_OF(KIND, PRODUCTS, 2, 2) TILE_OF(KIND, PRODUCTS, 3, 2)                                  \
    const Tiles KIND##_tiles = {0, {0, KIND##_1x4}, {0, KIND##_1x2, KIND##_2x2, KIND##_3x2}};
#endif

#endif
