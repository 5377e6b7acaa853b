/* Products of many rows with weights in groups, by tiles.
 *
 * A tile holds the exact sums of 16 rows and 16 outputs for a group of inputs. They are scaled and
 * added in float32 with the operations of `tile_groups` and `tile_six`, group by group: the bits are
 * equal. */
#include "amx.h"
#include "tiling.h"

#include <stdlib.h>

#if HAS_AMX

/* Panels unpacked to signed bytes, and the scales of all rows. A step is the inputs that share a
 * scale: 32, or 16 with 6 bits. */
typedef struct {
    int steps, width, panels; /* panels that are unpacked at one time */
    int8_t *weights;          /* [panels, steps, width / 4, 64] */
    float *scales, *minimums; /* [panels, steps, 16] */
    float *own;               /* [rows / 16, groups, 16] scales of the rows */
    float *shifts;            /* [rows / 16, groups, 16] those times the sums of the rows */
} Strip;

enum { STRIP_PANELS = 8, UNPACKED_BYTES = 512 << 10 };

INLINE int has_minimums(int kind) { return kind == GROUPS4_MIN || kind == GROUPS4_FINE; }

/* -- unpacking ------------------------------------------------------------------------------- */

/* Quad `q` of a group, of both panels. */
INLINE void unpack_quad(int kind, const uint8_t *place, int q, i8x64 *first, i8x64 *second) {
    const i8x64 zero = (i8x64){0} + (int8_t)(zero_of(kind) & 127);
    if (kind == GROUPS8) {
        const int8_t flip = OFFSET ? -128 : 0; /* 128 less, for a byte */
        *first = *(const i8x64 *)(place + q * 128) ^ flip;
        *second = *(const i8x64 *)(place + q * 128 + 64) ^ flip;
        return;
    }
    if (kind == GROUPS6) {
        *first = low_six(place + q / 2 * 192, q % 2) - zero;
        *second = high_six(place + q / 2 * 192, q % 2) - zero;
        return;
    }
    *first = low_half(place + q * 64) - zero;
    *second = high_half(place + q * 64) - zero;
}

/* Scale and minimum of a step, of panel `n` of a pair. */
INLINE void step_factors(int kind, const Matrix *w, const uint8_t *place, int pair, int step, int n,
                         f32x16 *scale, f32x16 *minimum) {
    if (kind != GROUPS6) {
        group_factors(kind, w, place, pair, step, n, scale, minimum);
        return;
    }
    const int8_t *fine = (const int8_t *)place + group_bytes(kind) - (2 - step % 2) * 2 * LANES;
    *scale = load_half(span_of(w, pair, step / 2) + n * LANES) *
             __builtin_convertvector(load_signed(fine + n * LANES), f32x16);
}

/* Unpacks the panels `panel` and `panel + 1` to the places `to` and `to + 1` of the strip. */
INLINE void unpack_pair(int kind, const Matrix *w, int panel, const Strip *strip, int to) {
    const int bytes = group_bytes(kind), a_group = GROUP / strip->width;
    const uint8_t *place = (const uint8_t *)w->data + (int64_t)panel / 2 * w->groups * bytes;
    const int64_t a_panel = (int64_t)strip->steps * strip->width * LANES;
    int8_t *weights = strip->weights + to * a_panel;
    for (int g = 0; g < w->groups; g++, place += bytes)
        for (int q = 0; q < QUADS_A_GROUP; q++, weights += 64)
            unpack_quad(kind, place, q, (i8x64 *)weights, (i8x64 *)(weights + a_panel));
    place -= w->groups * bytes;
    for (int step = 0; step < strip->steps; step++)
        for (int n = 0; n < 2; n++) {
            const int64_t at = ((int64_t)(to + n) * strip->steps + step) * LANES;
            f32x16 scale, minimum;
            step_factors(kind, w, place + step / a_group * bytes, panel / 2, step, n, &scale, &minimum);
            store(strip->scales + at, scale);
            if (has_minimums(kind)) store(strip->minimums + at, minimum);
        }
}

static void unpack(const Matrix *w, int panel, const Strip *strip, int to) {
    switch (w->kind) {
    case GROUPS8: unpack_pair(GROUPS8, w, panel, strip, to); break;
    case GROUPS4: unpack_pair(GROUPS4, w, panel, strip, to); break;
    case GROUPS4_MIN: unpack_pair(GROUPS4_MIN, w, panel, strip, to); break;
    case GROUPS4_FINE: unpack_pair(GROUPS4_FINE, w, panel, strip, to); break;
    case GROUPS6: unpack_pair(GROUPS6, w, panel, strip, to); break;
    }
}

/* Scales of 16 rows, side by side. */
static void gather_scales(const Matrix *w, Rows x, float *own, float *shifts) {
    for (int m = 0; m < SIDE; m++, x = from_row(w, x, 1))
        for (int g = 0; g < w->groups; g++) {
            own[g * SIDE + m] = x.scales[g];
            if (shifts) shifts[g * SIDE + m] = x.scales[g] * (float)sum_of(x, g);
        }
}

/* -- products -------------------------------------------------------------------------------- */

/* Adds the scaled sums of one step to those of 16 rows. */
INLINE void add_step(const int32_t *whole, f32x16 scale, const float *own, const float *minimum,
                     const float *shifts, f32x16 sums[SIDE]) {
#pragma GCC unroll 16
    for (int m = 0; m < SIDE; m++) {
        const f32x16 value = __builtin_convertvector(*(const i32x16 *)(whole + m * LANES), f32x16);
        sums[m] = fma16(value, scale * splat(own[m]), sums[m]);
    }
    if (!minimum) return;
#pragma GCC unroll 16
    for (int m = 0; m < SIDE; m++) sums[m] = fma16(splat(shifts[m]), load(minimum), sums[m]);
}

/* The products of 16 rows and `panels` panels of the strip; `own` and `shifts` are those of the rows.
 * While the sums of one step are scaled, the tile of the next one is computed. */
WITH_AMX static inline __attribute__((always_inline)) void
strip_of_rows(const Strip *strip, Rows x, int64_t stride, int panels, const float *own,
              const float *shifts, int a_group, f32x16 out[][SIDE]) {
    int32_t whole[2][SIDE * LANES] __attribute__((aligned(64)));
    const int width = GROUP / a_group, steps = strip->steps;
    const int8_t *weights = strip->weights;
    const float *scales = strip->scales, *minimums = strip->minimums;
    int turn = 0;
#define STEP(AT)                                                                                 \
    CLEAR_TILE(0);                                                                               \
    LOAD_TILE(6, weights, 64);                                                                   \
    LOAD_TILE(4, x.quants + (AT) * width, stride);                                               \
    DOT_TILES(0, 4, 6);                                                                          \
    STORE_TILE(0, whole[turn ^= 1], 64);                                                         \
    weights += width * LANES
    STEP(0);
    for (int n = 0; n < panels; n++) {
        f32x16 sums[SIDE];
        for (int m = 0; m < SIDE; m++) sums[m] = (f32x16){0};
        for (int step = 0; step < steps; step++, scales += LANES, minimums += LANES) {
            const int next = step + 1 < steps ? step + 1 : 0;
            if (next || n + 1 < panels) {
                STEP(next);
            } else turn ^= 1;
            const int g = step / a_group * SIDE;
            add_step(whole[turn ^ 1], load(scales), own + g, shifts ? minimums : NULL,
                     shifts ? shifts + g : NULL, sums);
        }
        for (int m = 0; m < SIDE; m++) out[n][m] = sums[m];
    }
#undef STEP
}

#define STRIP_OF(NAME, SHIFTS, A_GROUP)                                                          \
    WITH_AMX static __attribute__((noinline)) void NAME(                                         \
        const Strip *s, Rows x, int64_t stride, int panels, const float *own,                    \
        const float *shifts, f32x16 out[][SIDE]) {                                               \
        (void)shifts;                                                                            \
        strip_of_rows(s, x, stride, panels, own, SHIFTS, A_GROUP, out);                          \
    }
STRIP_OF(strip_plain, NULL, 1)
STRIP_OF(strip_minimums, shifts, 1)
STRIP_OF(strip_six, NULL, 2)

/* Hands the products of 16 rows over, a row at a time. */
static void put_strip(const Matrix *w, const Sink *sink, int row, int panel, int panels,
                      f32x16 products[][SIDE]) {
    for (int m = 0; m < SIDE; m++)
        for (int n = 0; n < panels; n += 2) {
            f32x16 one[1][8] = {{products[n][m], products[n + 1][m]}};
            put(w, sink, row + m, panel + n, 1, 2, one);
        }
}

static char *cut(char **place, int64_t bytes) {
    char *taken = *place;
    *place += (bytes + 63) / 64 * 64;
    return taken;
}

/* Lays out a strip for `rows` rows; returns its bytes. */
static int64_t lay_out(Strip *strip, const Matrix *w, int rows, char *memory) {
    const int64_t blocks = rows / SIDE, groups = w->groups, a_panel = groups * GROUP * LANES;
    const int shifts = has_minimums(w->kind), fitting = (int)(UNPACKED_BYTES / a_panel / 2 * 2);
    strip->width = w->kind == GROUPS6 ? GROUP / 2 : GROUP;
    strip->steps = w->groups * (GROUP / strip->width);
    strip->panels = fitting < 2 ? 2 : fitting > STRIP_PANELS ? STRIP_PANELS : fitting;
    char *place = memory;
    strip->weights = (int8_t *)cut(&place, strip->panels * a_panel);
    strip->scales = (float *)cut(&place, strip->panels * strip->steps * 64ll);
    strip->minimums = (float *)cut(&place, shifts ? strip->panels * strip->steps * 64ll : 0);
    strip->own = (float *)cut(&place, blocks * groups * 64);
    strip->shifts = (float *)cut(&place, shifts ? blocks * groups * 64 : 0);
    return place - memory;
}

WITH_AMX int amx_multiply_groups(const Matrix *w, Rows x, int rows, const Sink *sink, int first,
                                 int last) {
    Strip strip;
    const int64_t a_block = (int64_t)w->groups * SIDE, stride = (int64_t)w->groups * GROUP;
    const int shifts = has_minimums(w->kind);
    char *memory = malloc(lay_out(&strip, w, rows, NULL) + 64);
    if (!memory) return 0;
    lay_out(&strip, w, rows, memory + (64 - (uintptr_t)memory % 64) % 64);
    for (int block = 0; block < rows / SIDE; block++)
        gather_scales(w, from_row(w, x, block * SIDE), strip.own + block * a_block,
                      shifts ? strip.shifts + block * a_block : NULL);
    begin_tiles(strip.width);
    for (int panel = first, panels; panel < last; panel += panels) {
        panels = last - panel < strip.panels ? last - panel : strip.panels;
        for (int n = 0; n < panels; n += 2) unpack(w, panel + n, &strip, n);
        for (int block = 0; block < rows / SIDE; block++) {
            f32x16 out[STRIP_PANELS][SIDE];
            const float *own = strip.own + block * a_block;
            (shifts ? strip_minimums : w->kind == GROUPS6 ? strip_six : strip_plain)(
                &strip, from_row(w, x, block * SIDE), stride, panels, own,
                strip.shifts + block * a_block, out);
            put_strip(w, sink, block * SIDE, panel, panels, out);
        }
    }
    END_TILES();
    free(memory);
    return 1;
}

#else

int amx_multiply_groups(const Matrix *w, Rows x, int rows, const Sink *sink, int first, int last) {
    (void)w, (void)x, (void)rows, (void)sink, (void)first, (void)last;
    return 0;
}

#endif
