/* Tiles for vectors of 32 bytes (AVX2), whose sixteen registers hold the sums of a few rows with 8
 * outputs of two panels. Each vector element sees the operations of `tiles.h` in the same order, so
 * that the bits are equal. */
#ifndef OUTRIDER_TILES_HALF_H
#define OUTRIDER_TILES_HALF_H

#include "dots.h"
#include "matmul.h"

enum { VECTORS = 4 }; /* of two panels */

/* Few rows wait for memory: their weights are prefetched, by this number of bytes. Several rows of
 * 8 bits take so long that the prefetcher of the processor suffices. */
#define AHEAD 2048

/* The vectors of two panels, in the order of their outputs. */
typedef union { f32x16 panel[2]; __m256 part[VECTORS]; } Pair;

INLINE __m256i ints(const void *place) { return _mm256_loadu_si256((const __m256i *)place); }
/* Written as an instruction, or GCC would store it for the other half of a tile. */
INLINE __m256i four_of(const int8_t *place) {
    __m256i four;
    __asm__ volatile("vpbroadcastd %1, %0" : "=x"(four) : "m"(*(const int32_t(*)[1])place));
    return four;
}
INLINE __m256 halves(const uint16_t *place) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)place));
}
INLINE __m256 from_bytes(const uint8_t *place) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)place)));
}
INLINE __m256 from_signed(const int8_t *place) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)place)));
}

/* Instructions of a product and its sum stand together, or GCC would add all products of a sum last
 * and keep them in memory until then.
 *
 * Products of four activations with weights that are not negative and have at most 6 bits. Without
 * VNNI the sums have 16 bits, of two products each: 2 * 15 * 127 for 4 bits, which leaves space for
 * the 8 quads of a group, and 2 * 63 * 127 for 6 bits, which leaves space for two. */
INLINE __m256i add_quad(__m256i sums, __m256i weights, __m256i four) {
#if HALF_DOTS
    return _mm256_dpbusd_avx_epi32(sums, weights, four);
#else
    __m256i pairs;
    __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0"
            : "+x"(sums), "=&x"(pairs) : "x"(weights), "x"(four));
    return sums;
#endif
}
INLINE __m256i total(__m256i sums) {
#if HALF_DOTS
    return sums;
#else
    return _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
#endif
}

/* The same with weights of 8 bits, as `dot4_group` reads them; `size` is their magnitude. */
INLINE __m256i add_quad_8(__m256i sums, __m256i weights, __m256i size, __m256i four) {
#if HALF_DOTS
    (void)size;
    return _mm256_dpbusd_avx_epi32(sums, weights, four);
#else
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i pairs;
    __asm__("vpsignb %2, %4, %1\n\tvpmaddubsw %1, %3, %1\n\tvpmaddwd %5, %1, %1\n\tvpaddd %1, %0, %0"
            : "+x"(sums), "=&x"(pairs) : "x"(weights), "x"(size), "x"(four), "x"(ones));
    return sums;
#endif
}
INLINE __m256i size_of(__m256i weights) {
#if HALF_DOTS
    return weights;
#else
    return _mm256_abs_epi8(weights);
#endif
}

/* Scales and minimums of a group, for the 8 outputs of vector `v` of two panels. */
INLINE void half_factors(int kind, const Matrix *w, const uint8_t *place, int pair, int g, int v,
                         __m256 *scale, __m256 *minimum) {
    const uint8_t *fine = place + group_bytes(kind == GROUPS8 ? GROUPS8 : GROUPS4) - 64;
    const uint16_t *briefs = (const uint16_t *)fine + v * HALF;
    if (kind != GROUPS4_FINE) {
        *scale = halves(briefs);
        if (kind == GROUPS4_MIN) *minimum = halves(briefs + 2 * LANES);
        return;
    }
    const uint16_t *spans = span_of(w, pair, g) + v * HALF;
    fine += v * HALF;
    *scale = _mm256_mul_ps(halves(spans), from_bytes(fine));
    *minimum = _mm256_mul_ps(halves(spans + 2 * LANES), from_bytes(fine + 2 * LANES));
    *minimum = _mm256_xor_ps(*minimum, _mm256_set1_ps(-0.0f));
}

/* Sums of one group for two vectors of outputs: the bytes at `place` hold both (4 bits), or the
 * second one follows 64 bytes later (8 bits). The sums have names of their own, since GCC would keep
 * an array in memory. */
INLINE void group_sums(int bits, const uint8_t *place, const int8_t *quants, int64_t row, int MR,
                       __m256i whole[][2]) {
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i a0 = _mm256_setzero_si256(), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
#define ADD_ROW(m)                                                                               \
    if (m < MR) {                                                                                \
        const __m256i four = four_of(quants + m * row + q * 4);                                  \
        a##m = bits == 8 ? add_quad_8(a##m, low, low_size, four) : add_quad(a##m, low, four);    \
        b##m = bits == 8 ? add_quad_8(b##m, high, high_size, four) : add_quad(b##m, high, four); \
    }
#pragma GCC unroll 8
    for (int q = 0; q < QUADS_A_GROUP; q++) {
        __m256i low, high, low_size, high_size;
        if (bits == 8) {
            low = ints(place + q * 128), high = ints(place + q * 128 + 64);
            low_size = size_of(low), high_size = size_of(high);
        } else {
            const __m256i both = ints(place + q * 64);
            low = _mm256_and_si256(both, mask);
            high = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
        }
        ADD_ROW(0) ADD_ROW(1) ADD_ROW(2) ADD_ROW(3)
    }
#define GIVE_ROW(m)                                                                              \
    if (m < MR) {                                                                                \
        whole[m][0] = bits < 8 ? total(a##m) : a##m;                                             \
        whole[m][1] = bits < 8 ? total(b##m) : b##m;                                             \
    }
    GIVE_ROW(0) GIVE_ROW(1) GIVE_ROW(2) GIVE_ROW(3)
#undef ADD_ROW
#undef GIVE_ROW
}

INLINE void half_groups(int kind, const Matrix *w, Rows x, int panel, int MR, f32x16 out[][8]) {
    const int bytes = group_bytes(kind), bits = kind == GROUPS8 ? 8 : 4;
    const int has_minimum = kind == GROUPS4_MIN || kind == GROUPS4_FINE;
    const int64_t stride = (int64_t)w->groups * bytes, row = (int64_t)w->groups * GROUP;
    const uint8_t *place = (const uint8_t *)w->data + panel / 2 * stride;
    Pair sums[MOST_ROWS];
    for (int m = 0; m < MR; m++)
        for (int v = 0; v < VECTORS; v++) sums[m].part[v] = _mm256_setzero_ps();
    for (int g = 0; g < w->groups; g++, place += bytes) {
        if (MR == 1 || bits == 4)
            for (int line = 0; line < bytes; line += 64) __builtin_prefetch(place + AHEAD + line);
        float own[MOST_ROWS], least[MOST_ROWS];
        int start[MOST_ROWS];
        for (int m = 0; m < MR; m++) {
            const int sum = x.sums[2 * (m * w->groups + g)] + x.sums[2 * (m * w->groups + g) + 1];
            own[m] = x.scales[m * w->groups + g];
            least[m] = own[m] * (float)sum, start[m] = -zero_of(kind) * sum;
        }
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            __m256i whole[MOST_ROWS][2];
            group_sums(bits, place + half * 32, x.quants + g * GROUP, row, MR, whole);
#pragma GCC unroll 2
            for (int n = 0; n < 2; n++) {
                const int v = 2 * n + half;
                __m256 scale, minimum;
                half_factors(kind, w, place, panel / 2, g, v, &scale, &minimum);
#pragma GCC unroll 8
                for (int m = 0; m < MR; m++) {
                    __m256i exact = whole[m][n];
                    if (zero_of(kind)) exact = _mm256_add_epi32(exact, _mm256_set1_epi32(start[m]));
                    const __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(own[m]));
                    __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(exact), factor, sums[m].part[v]);
                    if (has_minimum) sum = _mm256_fmadd_ps(_mm256_set1_ps(least[m]), minimum, sum);
                    sums[m].part[v] = sum;
                }
            }
        }
    }
    for (int m = 0; m < MR; m++) out[m][0] = sums[m].panel[0], out[m][1] = sums[m].panel[1];
}

/* Four quads of 6 bits, for the 8 outputs of two vectors. */
INLINE void six_sums(const uint8_t *place, const int8_t *quants, int64_t row, int MR,
                     __m256i whole[][2]) {
    const __m256i low_mask = _mm256_set1_epi8(15), high_mask = _mm256_set1_epi8(0x30);
    for (int m = 0; m < MR; m++) whole[m][0] = whole[m][1] = _mm256_setzero_si256();
#pragma GCC unroll 2
    for (int two = 0; two < QUADS_A_GROUP / 4; two++, place += 192) {
        const __m256i top = ints(place + 128);
        __m256i sums[MOST_ROWS][2];
        for (int m = 0; m < MR; m++) sums[m][0] = sums[m][1] = _mm256_setzero_si256();
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; odd++) {
            const __m256i both = ints(place + odd * 64);
            const __m256i first = odd ? top : _mm256_slli_epi16(top, 4);
            const __m256i second = odd ? _mm256_srli_epi16(top, 2) : _mm256_slli_epi16(top, 2);
            const __m256i low = _mm256_or_si256(_mm256_and_si256(both, low_mask),
                                                _mm256_and_si256(first, high_mask));
            const __m256i high =
                _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(both, 4), low_mask),
                                _mm256_and_si256(second, high_mask));
#pragma GCC unroll 8
            for (int m = 0; m < MR; m++) {
                const __m256i four = four_of(quants + m * row + two * 8 + odd * 4);
                sums[m][0] = add_quad(sums[m][0], low, four);
                sums[m][1] = add_quad(sums[m][1], high, four);
            }
        }
        for (int m = 0; m < MR; m++)
            for (int n = 0; n < 2; n++)
                whole[m][n] = _mm256_add_epi32(whole[m][n], total(sums[m][n]));
    }
}

INLINE void half_six(const Matrix *w, Rows x, int panel, int MR, f32x16 out[][8]) {
    const int bytes = group_bytes(GROUPS6);
    const int64_t stride = (int64_t)w->groups * bytes, row = (int64_t)w->groups * GROUP;
    const uint8_t *place = (const uint8_t *)w->data + panel / 2 * stride;
    Pair sums[MOST_ROWS];
    for (int m = 0; m < MR; m++)
        for (int v = 0; v < VECTORS; v++) sums[m].part[v] = _mm256_setzero_ps();
    for (int part = 0; part < 2 * w->groups; part++) { /* halves of groups */
        const int g = part / 2;
        const uint8_t *group = place + g * (int64_t)bytes;
        const int8_t *fine = (const int8_t *)group + bytes - (2 - part % 2) * 2 * LANES;
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            __m256i whole[MOST_ROWS][2];
            six_sums(group + part % 2 * 2 * 192 + half * 32, x.quants + part * (GROUP / 2), row, MR,
                     whole);
#pragma GCC unroll 2
            for (int n = 0; n < 2; n++) {
                const int v = 2 * n + half;
                const __m256 scale = _mm256_mul_ps(halves(span_of(w, panel / 2, g) + v * HALF),
                                                   from_signed(fine + v * HALF));
#pragma GCC unroll 8
                for (int m = 0; m < MR; m++) {
                    const int start = -zero_of(GROUPS6) * x.sums[m * 2 * w->groups + part];
                    const __m256i exact = _mm256_add_epi32(whole[m][n], _mm256_set1_epi32(start));
                    const __m256 own = _mm256_set1_ps(x.scales[m * w->groups + g]);
                    sums[m].part[v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(exact),
                                                      _mm256_mul_ps(scale, own), sums[m].part[v]);
                }
            }
        }
    }
    for (int m = 0; m < MR; m++) out[m][0] = sums[m].panel[0], out[m][1] = sums[m].panel[1];
}

/* The activations have OFFSET added, as in `tile_int8`. */
INLINE void half_int8(const Matrix *w, Rows x, int panel, int MR, f32x16 out[][8]) {
    const int64_t stride = (int64_t)w->quads * 64, row = (int64_t)w->quads * 4;
    for (int n = 0; n < 2; n++) {
        const int8_t *weights = (const int8_t *)w->data + (panel + n) * stride;
        union { i32x16 all; __m256i part[2]; } sums[MOST_ROWS];
        for (int m = 0; m < MR; m++) sums[m].all = (i32x16){0};
        for (int q = 0; q < w->quads; q++) {
            const __m256i low = ints(weights + q * 64), high = ints(weights + q * 64 + 32);
            const __m256i low_size = size_of(low), high_size = size_of(high);
#pragma GCC unroll 8
            for (int m = 0; m < MR; m++) {
                const __m256i four = four_of(x.quants + m * row + q * 4);
#if HALF_DOTS
                (void)low_size, (void)high_size;
                sums[m].part[0] = _mm256_dpbusd_avx_epi32(sums[m].part[0], four, low);
                sums[m].part[1] = _mm256_dpbusd_avx_epi32(sums[m].part[1], four, high);
#else
                sums[m].part[0] = add_quad_8(sums[m].part[0], low, low_size, four);
                sums[m].part[1] = add_quad_8(sums[m].part[1], high, high_size, four);
#endif
            }
        }
        const f32x16 scale = load(w->scale + (panel + n) * LANES);
        const i32x16 shift =
            __builtin_convertvector(load(w->sum + (panel + n) * LANES), i32x16) * OFFSET;
        for (int m = 0; m < MR; m++)
            out[m][n] = __builtin_convertvector(sums[m].all - shift, f32x16) * scale *
                        splat(x.scales[m]);
    }
}

/* Panel by panel: six rows of 16 sums, the weights and an activation fill the registers. */
INLINE void half_floats(int kind, const Matrix *w, Rows x, int panel, int MR, f32x16 out[][8]) {
    const int64_t stride = panel_bytes(w);
    for (int n = 0; n < 2; n++) {
        const uint8_t *place = (const uint8_t *)w->data + (panel + n) * stride;
        union { f32x16 all; __m256 part[2]; } sums[MOST_ROWS];
        for (int m = 0; m < MR; m++) sums[m].all = (f32x16){0};
#pragma GCC unroll 2
        for (int k = 0; k < w->inputs; k++) {
            __m256 column[2];
            for (int i = 0; i < 2; i++) {
                if (kind == FLOAT32)
                    column[i] = _mm256_loadu_ps((const float *)place + k * LANES + i * HALF);
                else if (kind == FLOAT16)
                    column[i] = halves((const uint16_t *)place + k * LANES + i * HALF);
                else { /* pairs of inputs: the first one in the low half of 32 bits */
                    const __m256i both = ints(place + k / 2 * 64 + i * 32);
                    column[i] = _mm256_castsi256_ps(
                        k % 2 ? _mm256_and_si256(both, _mm256_set1_epi32(-65536))
                              : _mm256_slli_epi32(both, 16));
                }
            }
#pragma GCC unroll 8
            for (int m = 0; m < MR; m++) {
                const __m256 a = _mm256_set1_ps(x.values[(int64_t)m * w->inputs + k]);
                for (int i = 0; i < 2; i++)
                    sums[m].part[i] = _mm256_fmadd_ps(a, column[i], sums[m].part[i]);
            }
        }
        for (int m = 0; m < MR; m++) out[m][n] = sums[m].all;
    }
}

#endif
