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

#include "matrix.h"

/* Number of vectors of sums in registers, and number of rows that share a pass over a strip. */
#if defined(__AVX512F__)
#define TILE 16
#define MOST_ROWS 8
#elif HALF_TILES
#define TILE 0
#define MOST_ROWS 4
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

/* The rows from `row` on, as matrix `w` reads them. */
INLINE Rows from_row(const Matrix *w, Rows x, int64_t row) {
    const int64_t quants = is_grouped(w) ? (int64_t)w->groups * GROUP : (int64_t)w->quads * 4;
    const int64_t scales = is_grouped(w) ? w->groups : 1;
    return (Rows){x.values + row * w->inputs, x.quants + row * quants, x.scales + row * scales,
                  x.sums + row * scales * 2};
}

typedef void (*Tile)(const Matrix *, Rows, int, int, const Sink *);

/* Tiles of eight, four and two panels, by their number of rows. */
typedef struct { Tile eight, four[5], two[9]; } Tiles;

/* Defined in `tiles_*.c`, which compilers translate side by side, and in `amx*.c`. */
#pragma GCC visibility push(hidden)
extern const Tiles float32_tiles, float16_tiles, bfloat16_tiles, int8_tiles, groups8_tiles,
    groups4_tiles, groups4_min_tiles, groups4_fine_tiles, groups6_tiles;

/* Whether the processor's instructions for products of tiles (Intel AMX) are used. */
extern int32_t amx_in_use;
/* Does the work of `multiply` for `rows` rows, a multiple of 16, and a matrix of groups, with equal
 * bits. Returns 0, and does nothing, if there is no memory. */
int amx_multiply_groups(const Matrix *w, Rows x, int rows, const Sink *sink, int first, int last);
#pragma GCC visibility pop

/* From this number of rows on, a matrix of groups is unpacked for tiles of 16 rows. */
enum { AMX_ROWS = 32, AMX_SIDE = 16 };

INLINE const Tiles *tiles_of(int kind) {
    static const Tiles *const known[] = {
        [FLOAT32] = &float32_tiles,         [INT8] = &int8_tiles,
        [BFLOAT16] = &bfloat16_tiles,       [FLOAT16] = &float16_tiles,
        [GROUPS8] = &groups8_tiles,         [GROUPS4] = &groups4_tiles,
        [GROUPS4_MIN] = &groups4_min_tiles, [GROUPS4_FINE] = &groups4_fine_tiles,
        [GROUPS6] = &groups6_tiles,
    };
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
    int done = 0;
    if (amx_in_use && rows >= AMX_ROWS && is_grouped(w)) {
        done = rows / AMX_SIDE * AMX_SIDE;
        if (!amx_multiply_groups(w, x, done, sink, first, last)) done = 0;
    }
    if (done == rows) return;
    for (int panel = first; panel < last; panel += wide) {
        int end = panel + wide < last ? panel + wide : last;
        for (int row = done; row < rows; row += MOST_ROWS)
            strip(w, x, row, rows - row < MOST_ROWS ? rows - row : MOST_ROWS, sink, panel, end);
    }
}

#endif
