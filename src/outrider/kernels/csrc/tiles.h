/* Tiles: products of MR rows with NR panels, in registers, in one pass over the inputs. */
#ifndef OUTRIDER_TILES_H
#define OUTRIDER_TILES_H

#include "dots.h"

/* The next panels are prefetched into the second-level cache: the prefetcher of the processor stops
 * at each page, and a panel is hardly longer than a page. */
#define PREFETCH_TO 3
/* One row of 6 bits prefetches its own panels, by this number of bytes: three lines for two quads
 * are not a series that the prefetcher of the processor follows. */
#define SIX_AHEAD 2048

/* `out[m][n]` holds the products of row m and panel n, in all tiles. */
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

INLINE void tile_floats(int brief, const Matrix *w, Rows x, int panel, int MR, int NR,
                        f32x16 out[][8]) {
    const int bytes = LANES * (brief ? 2 : 4);
    const int64_t stride = (int64_t)w->inputs * bytes;
    const uint8_t *weights = (const uint8_t *)w->data + panel * stride;
    f32x16 sums[8][8];
    for (int m = 0; m < MR; m++)
        for (int n = 0; n < NR; n++) sums[m][n] = (f32x16){0};
    for (int k = 0; k < w->inputs; k++) {
        f32x16 column[8];
#pragma GCC unroll 8
        for (int n = 0; n < NR; n++) {
            const uint8_t *place = weights + n * stride + k * bytes;
            column[n] = brief ? load_half((const uint16_t *)place) : load((const float *)place);
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

/* The operations of float32 on the same weights, in the same order: the results are equal. */
INLINE void tile_bfloat16(const Matrix *w, Rows x, int panel, int MR, int NR, f32x16 out[][8]) {
    const int64_t stride = panel_bytes(w);
    const uint8_t *weights = (const uint8_t *)w->data + panel * stride;
    f32x16 sums[8][8];
    for (int m = 0; m < MR; m++)
        for (int n = 0; n < NR; n++) sums[m][n] = (f32x16){0};
    for (int k = 0; k < w->inputs; k += 2) {
        i32x16 both[8];
#pragma GCC unroll 8
        for (int n = 0; n < NR; n++) {
            const uint8_t *place = weights + n * stride + k * 32;
            both[n] = *(const i32x16 *)place;
            if (MR > 1) __builtin_prefetch(place + NR * stride, 0, PREFETCH_TO);
        }
#pragma GCC unroll 8
        for (int m = 0; m < MR; m++) {
            f32x16 a = splat(x.values[(int64_t)m * w->inputs + k]);
#pragma GCC unroll 8
            for (int n = 0; n < NR; n++) sums[m][n] = fma16(a, (f32x16)(both[n] << 16), sums[m][n]);
        }
        if (k + 1 == w->inputs) break;
#pragma GCC unroll 8
        for (int m = 0; m < MR; m++) {
            f32x16 a = splat(x.values[(int64_t)m * w->inputs + k + 1]);
#pragma GCC unroll 8
            for (int n = 0; n < NR; n++)
                sums[m][n] = fma16(a, (f32x16)(both[n] & -65536), sums[m][n]);
        }
    }
    for (int m = 0; m < MR; m++)
        for (int n = 0; n < NR; n++) out[m][n] = sums[m][n];
}

/* Scales and minimums of group `g` for panel `n` of those that begin at `pair`. */
INLINE void group_factors(int kind, const Matrix *w, const uint8_t *place, int pair, int g, int n,
                          f32x16 *scale, f32x16 *minimum) {
    const int half = n % 2 * LANES;
    const int quants = group_bytes(kind == GROUPS8 ? GROUPS8 : GROUPS4) - 64;
    const uint16_t *briefs = (const uint16_t *)(place + quants);
    if (kind != GROUPS4_FINE) {
        *scale = load_half(briefs + half);
        if (kind == GROUPS4_MIN) *minimum = load_half(briefs + 2 * LANES + half);
        return;
    }
    const uint8_t *fine = (const uint8_t *)briefs;
    const uint16_t *spans = span_of(w, pair + n / 2, g);
    *scale = load_half(spans + half) * load_bytes(fine + half);
    *minimum = -(load_half(spans + 2 * LANES + half) * load_bytes(fine + 2 * LANES + half));
}

/* The sum of the activations of a group. */
INLINE int sum_of(Rows x, int group) { return x.sums[2 * group] + x.sums[2 * group + 1]; }

/* For each group a sum of integers, which is scaled and added in float32, group by group. */
INLINE void tile_groups(int kind, const Matrix *w, Rows x, int panel, int MR, int NR,
                        f32x16 out[][8]) {
    const int bytes = group_bytes(kind), bits = kind == GROUPS8 ? 8 : 4;
    const int has_minimum = kind == GROUPS4_MIN || kind == GROUPS4_FINE;
    const int64_t stride = (int64_t)w->groups * bytes, row = (int64_t)w->groups * GROUP;
    const uint8_t *weights = (const uint8_t *)w->data + panel / 2 * stride;
    f32x16 sums[8][8];
    for (int m = 0; m < MR; m++)
        for (int n = 0; n < NR; n++) sums[m][n] = (f32x16){0};
    for (int g = 0; g < w->groups; g++, weights += bytes) {
        i32x16 whole[8][8];
#pragma GCC unroll 8
        for (int m = 0; m < MR; m++) {
            const int start = zero_of(kind) ? -zero_of(kind) * sum_of(x, m * w->groups + g) : 0;
#pragma GCC unroll 8
            for (int n = 0; n < NR; n++) whole[m][n] = (i32x16){0} + start;
        }
#pragma GCC unroll 8
        for (int q = 0; q < QUADS_A_GROUP; q++) {
            i8x64 four[8];
#pragma GCC unroll 4
            for (int p = 0; p < NR / 2; p++) {
                const uint8_t *place = weights + p * stride + q * (bits == 8 ? 128 : 64);
                four[2 * p] = bits == 8 ? *(const i8x64 *)place : low_half(place);
                four[2 * p + 1] = bits == 8 ? *(const i8x64 *)(place + 64) : high_half(place);
                if (MR > 1 && NR == 2) {
                    __builtin_prefetch(place + stride, 0, PREFETCH_TO);
                    if (bits == 8) __builtin_prefetch(place + stride + 64, 0, PREFETCH_TO);
                }
            }
#pragma GCC unroll 8
            for (int m = 0; m < MR; m++) {
                const int32_t a = quad(x.quants + m * row + g * GROUP + q * 4);
#pragma GCC unroll 8
                for (int n = 0; n < NR; n++) whole[m][n] = dot4_group(whole[m][n], a, four[n], bits);
            }
        }
#pragma GCC unroll 8
        for (int n = 0; n < NR; n++) {
            f32x16 scale, minimum;
            group_factors(kind, w, weights + n / 2 * stride, panel / 2, g, n, &scale, &minimum);
#pragma GCC unroll 8
            for (int m = 0; m < MR; m++) {
                const float own = x.scales[m * w->groups + g];
                f32x16 value = __builtin_convertvector(whole[m][n], f32x16);
                sums[m][n] = fma16(value, scale * splat(own), sums[m][n]);
                if (has_minimum)
                    sums[m][n] = fma16(splat(own * (float)sum_of(x, m * w->groups + g)), minimum,
                                       sums[m][n]);
            }
        }
    }
    for (int m = 0; m < MR; m++)
        for (int n = 0; n < NR; n++) out[m][n] = sums[m][n];
}

/* The same for 6 bits, where each half of a group has its own scale. */
INLINE void tile_six(const Matrix *w, Rows x, int panel, int MR, int NR, f32x16 out[][8]) {
    const int bytes = group_bytes(GROUPS6);
    const int64_t stride = (int64_t)w->groups * bytes, row = (int64_t)w->groups * GROUP;
    const uint8_t *weights = (const uint8_t *)w->data + panel / 2 * stride;
    f32x16 sums[8][8];
    for (int m = 0; m < MR; m++)
        for (int n = 0; n < NR; n++) sums[m][n] = (f32x16){0};
    for (int half = 0; half < 2 * w->groups; half++) {
        const int g = half / 2;
        const uint8_t *quads = weights + half % 2 * 2 * 192;
        i32x16 whole[8][8];
#pragma GCC unroll 8
        for (int m = 0; m < MR; m++)
#pragma GCC unroll 8
            for (int n = 0; n < NR; n++)
                whole[m][n] = (i32x16){0} - zero_of(GROUPS6) * x.sums[m * 2 * w->groups + half];
#pragma GCC unroll 4
        for (int q = 0; q < QUADS_A_GROUP / 2; q++) {
            i8x64 four[8];
#pragma GCC unroll 4
            for (int p = 0; p < NR / 2; p++) {
                const uint8_t *place = quads + p * stride + q / 2 * 192;
                four[2 * p] = low_six(place, q % 2);
                four[2 * p + 1] = high_six(place, q % 2);
                if (MR == 1 || NR == 2) {
                    const uint8_t *ahead = place + (MR == 1 ? SIX_AHEAD : stride);
                    __builtin_prefetch(ahead + q % 2 * 64, 0, PREFETCH_TO);
                    if (q % 2) __builtin_prefetch(ahead + 128, 0, PREFETCH_TO);
                }
            }
#pragma GCC unroll 8
            for (int m = 0; m < MR; m++) {
                const int32_t a = quad(x.quants + m * row + half * (GROUP / 2) + q * 4);
#pragma GCC unroll 8
                for (int n = 0; n < NR; n++) whole[m][n] = dot4_group(whole[m][n], a, four[n], 6);
            }
        }
        const int8_t *fine = (const int8_t *)weights + bytes - (2 - half % 2) * 2 * LANES;
#pragma GCC unroll 8
        for (int n = 0; n < NR; n++) {
            const i32x16 whole_scale = load_signed(fine + n / 2 * stride + n % 2 * LANES);
            const f32x16 own = __builtin_convertvector(whole_scale, f32x16);
            const f32x16 scale = load_half(span_of(w, panel / 2 + n / 2, g) + n % 2 * LANES) * own;
#pragma GCC unroll 8
            for (int m = 0; m < MR; m++) {
                f32x16 value = __builtin_convertvector(whole[m][n], f32x16);
                sums[m][n] = fma16(value, scale * splat(x.scales[m * w->groups + g]), sums[m][n]);
            }
        }
        if (half % 2) weights += bytes;
    }
    for (int m = 0; m < MR; m++)
        for (int n = 0; n < NR; n++) out[m][n] = sums[m][n];
}

#endif
