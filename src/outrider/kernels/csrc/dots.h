/* Dot products of four small integers, sixteen at a time: exact, so their order has no effect. */
#ifndef OUTRIDER_DOTS_H
#define OUTRIDER_DOTS_H

#include "matrix.h"

#if defined(__AVX512VNNI__) && defined(__AVX512F__)
#define WIDE_DOTS 1
#elif defined(__AVXVNNI__)
#define HALF_DOTS 1
#endif

typedef union { i32x16 all; i8x64 bytes;
#if defined(__AVX2__)
    __m256i half[2];
#elif defined(__ARM_NEON)
    int32x4_t part[4];
#endif
} Integers;

INLINE int32_t quad(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, 4);
    return four;
}

/* Not inlined: unrolled tiles of it would take minutes to compile. */
static __attribute__((noinline, unused)) i32x16 dot4_plain(i32x16 sums, int32_t four, i8x64 weights) {
    int8_t a[4];
    memcpy(a, &four, 4);
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 4; i++) sums[lane] += a[i] * weights[lane * 4 + i];
    return sums;
}

/* Adds to each sum the products of the four activations with four signed weights; activations have
 * OFFSET added. */
INLINE i32x16 dot4(i32x16 sums, int32_t four, i8x64 weights) {
#if WIDE_DOTS
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(four), (__m512i)weights);
#elif HALF_DOTS
    Integers s = {sums}, w = {.bytes = weights};
    __m256i a = _mm256_set1_epi32(four);
    for (int i = 0; i < 2; i++) s.half[i] = _mm256_dpbusd_avx_epi32(s.half[i], a, w.half[i]);
    return s.all;
#elif defined(__AVX2__)
    /* |a| * (w with a's sign): 127 * 127 * 2 fits 16 bits, so nothing saturates. */
    Integers s = {sums}, w = {.bytes = weights};
    __m256i a = _mm256_set1_epi32(four), ones = _mm256_set1_epi16(1);
    for (int i = 0; i < 2; i++) {
        __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(w.half[i], a));
        s.half[i] = _mm256_add_epi32(s.half[i], _mm256_madd_epi16(pairs, ones));
    }
    return s.all;
#elif defined(__ARM_FEATURE_DOTPROD)
    Integers s = {sums}, w = {.bytes = weights};
    int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(four));
    for (int i = 0; i < 4; i++)
        s.part[i] = vdotq_s32(s.part[i], vreinterpretq_s8_s32(w.part[i]), a);
    return s.all;
#elif defined(__ARM_NEON) && defined(__aarch64__)
    /* 128 * 127 * 2 fits 16 bits: a file may hold the weight -128, but no activation is. */
    Integers s = {sums}, w = {.bytes = weights};
    int8x8_t a = vreinterpret_s8_s32(vdup_n_s32(four));
    for (int i = 0; i < 4; i++) {
        const int8x16_t own = vreinterpretq_s8_s32(w.part[i]);
        const int16x8_t low = vmull_s8(vget_low_s8(own), a), high = vmull_s8(vget_high_s8(own), a);
        s.part[i] = vpadalq_s16(s.part[i], vpaddq_s16(low, high));
    }
    return s.all;
#else
    return dot4_plain(sums, four, weights);
#endif
}

/* The same with weights of a group: 8 bits with OFFSET added, or 4 or 6 bits, not negative.
 * The activations are signed. */
INLINE i32x16 dot4_group(i32x16 sums, int32_t four, i8x64 weights, int bits) {
#if WIDE_DOTS
    (void)bits;
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)weights, _mm512_set1_epi32(four));
#elif HALF_DOTS
    (void)bits;
    Integers s = {sums}, w = {.bytes = weights};
    __m256i a = _mm256_set1_epi32(four);
    for (int i = 0; i < 2; i++) s.half[i] = _mm256_dpbusd_avx_epi32(s.half[i], w.half[i], a);
    return s.all;
#elif defined(__AVX2__)
    /* 128 * 127 * 2 fits 16 bits: a file may hold the weight -128, but no activation is. */
    Integers s = {sums}, w = {.bytes = weights};
    __m256i a = _mm256_set1_epi32(four), ones = _mm256_set1_epi16(1);
    for (int i = 0; i < 2; i++) {
        __m256i pairs = bits < 8 ? _mm256_maddubs_epi16(w.half[i], a)
                                  : _mm256_maddubs_epi16(_mm256_abs_epi8(w.half[i]),
                                                         _mm256_sign_epi8(a, w.half[i]));
        s.half[i] = _mm256_add_epi32(s.half[i], _mm256_madd_epi16(pairs, ones));
    }
    return s.all;
#else
    (void)bits;
    return dot4(sums, four, weights);
#endif
}

INLINE i8x64 low_half(const uint8_t *place) { return *(const i8x64 *)place & 15; }
INLINE i8x64 high_half(const uint8_t *place) {
    u16x32 pairs = *(const u16x32 *)place;
    return (i8x64)((pairs >> 4) & 0x0f0f);
}

/* The weights of quad `odd` of two quads with 6 bits, of the first and the second panel. */
INLINE i8x64 low_six(const uint8_t *place, int odd) {
    u16x32 high = *(const u16x32 *)(place + 128);
    return low_half(place + odd * 64) | (i8x64)((odd ? high : high << 4) & 0x3030);
}
INLINE i8x64 high_six(const uint8_t *place, int odd) {
    u16x32 high = *(const u16x32 *)(place + 128);
    return high_half(place + odd * 64) | (i8x64)((odd ? high >> 2 : high << 2) & 0x3030);
}

#endif
