/* Vectors of sixteen floats, for any processor.
 *
 * The vector extension of the compiler splits a 64-byte vector if registers are narrower. Fused
 * multiply-add is explicit and contraction is off (-ffp-contract=off), so that an expression gives
 * the same bits wherever it is inlined: equal rows stay equal regardless of other rows. */
#ifndef OUTRIDER_VECTORS_H
#define OUTRIDER_VECTORS_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define LANES 16
#if defined(__AVX2__) && !defined(__AVX512F__)
#define HALF_TILES 1 /* Sums of tiles are vectors of 32 bytes; compilers divide 64 bytes badly. */
enum { HALF = LANES / 2 };
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float f32x16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t i32x16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int8_t i8x16 __attribute__((vector_size(16), aligned(1), may_alias));
typedef int8_t i8x64 __attribute__((vector_size(64), aligned(1), may_alias));
typedef uint8_t u8x16 __attribute__((vector_size(16), aligned(1), may_alias));
typedef uint16_t u16x16 __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint16_t u16x32 __attribute__((vector_size(64), aligned(2), may_alias));
typedef uint32_t u32x16 __attribute__((vector_size(64), aligned(4), may_alias));

INLINE f32x16 splat(float x) { return x - (f32x16){0}; }
INLINE f32x16 load(const float *p) { return *(const f32x16 *)p; }
INLINE void store(float *p, f32x16 x) { *(f32x16 *)p = x; }

/* a * b + c, rounded once if the processor supports it. */
INLINE f32x16 fma16(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    union { f32x16 all; __m256 half[2]; } x = {a}, y = {b}, z = {c};
    for (int i = 0; i < 2; i++) z.half[i] = _mm256_fmadd_ps(x.half[i], y.half[i], z.half[i]);
    return z.all;
#elif defined(__ARM_NEON)
    union { f32x16 all; float32x4_t part[4]; } x = {a}, y = {b}, z = {c};
    for (int i = 0; i < 4; i++) z.part[i] = vfmaq_f32(z.part[i], x.part[i], y.part[i]);
    return z.all;
#elif defined(__FP_FAST_FMAF)
    for (int i = 0; i < LANES; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#else
    return a * b + c;
#endif
}

/* Sixteen bytes as whole numbers. Compilers convert vectors of different sizes one by one. */
INLINE i32x16 load_unsigned(const uint8_t *p) {
#if defined(__AVX512F__)
    return (i32x16)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
#elif defined(__AVX2__)
    union { i32x16 all; __m256i half[2]; } x;
    for (int i = 0; i < 2; i++)
        x.half[i] = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8 * i)));
    return x.all;
#elif defined(__ARM_NEON)
    union { i32x16 all; uint32x4_t part[4]; } x;
    const uint8x16_t bytes = vld1q_u8(p);
    const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
    x.part[0] = vmovl_u16(vget_low_u16(low)), x.part[1] = vmovl_u16(vget_high_u16(low));
    x.part[2] = vmovl_u16(vget_low_u16(high)), x.part[3] = vmovl_u16(vget_high_u16(high));
    return x.all;
#else
    return __builtin_convertvector(*(const u8x16 *)p, i32x16);
#endif
}

INLINE i32x16 load_signed(const int8_t *p) {
#if defined(__AVX512F__)
    return (i32x16)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
#elif defined(__AVX2__)
    union { i32x16 all; __m256i half[2]; } x;
    for (int i = 0; i < 2; i++)
        x.half[i] = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8 * i)));
    return x.all;
#elif defined(__ARM_NEON)
    union { i32x16 all; int32x4_t part[4]; } x;
    const int8x16_t bytes = vld1q_s8(p);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    x.part[0] = vmovl_s16(vget_low_s16(low)), x.part[1] = vmovl_s16(vget_high_s16(low));
    x.part[2] = vmovl_s16(vget_low_s16(high)), x.part[3] = vmovl_s16(vget_high_s16(high));
    return x.all;
#else
    return __builtin_convertvector(*(const i8x16 *)p, i32x16);
#endif
}

INLINE f32x16 load_bytes(const uint8_t *p) {
    return __builtin_convertvector(load_unsigned(p), f32x16);
}

/* Sixteen numbers in float16 (IEEE 754), exactly. */
INLINE f32x16 load_half(const uint16_t *p) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(__F16C__)
    union { f32x16 all; __m256 half[2]; } x;
    for (int i = 0; i < 2; i++)
        x.half[i] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8 * i)));
    return x.all;
#elif defined(__ARM_NEON) && defined(__aarch64__)
    union { f32x16 all; float32x4_t part[4]; } x;
    for (int i = 0; i < 4; i++)
        x.part[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
    return x.all;
#else
    /* The exponent is moved by multiplication, which is right for denormals as well. */
    u32x16 brief = __builtin_convertvector(*(const u16x16 *)p, u32x16);
    f32x16 size = (f32x16)((brief & 0x7fff) << 13) * 0x1p112f;
    i32x16 odd = (i32x16)((brief & 0x7c00) == 0x7c00);
    u32x16 bits = ((u32x16)size & ~(u32x16)odd) | (((brief & 0x7fff) << 13 | 0x7f800000) & (u32x16)odd);
    return (f32x16)(bits | (brief & 0x8000) << 16);
#endif
}

INLINE float half_float(uint16_t brief) {
    uint16_t all[LANES] = {brief};
    return load_half(all)[0];
}

INLINE f32x16 select16(i32x16 mask, f32x16 yes, f32x16 no) {
    return (f32x16)(((i32x16)yes & mask) | ((i32x16)no & ~mask));
}
INLINE f32x16 max16(f32x16 a, f32x16 b) {
#if HALF_TILES
    union { f32x16 all; __m256 half[2]; } x = {a}, y = {b};
    for (int i = 0; i < 2; i++) y.half[i] = _mm256_max_ps(x.half[i], y.half[i]);
    return y.all;
#else
    return select16(a > b, a, b);
#endif
}
INLINE f32x16 abs16(f32x16 x) { return (f32x16)((i32x16)x & 0x7fffffff); }

/* The sum of all elements, always with the same tree of additions. */
INLINE float sum16(f32x16 x) {
#if HALF_TILES
    union { f32x16 all; __m256 half[2]; } y = {x};
    const __m256 eight = _mm256_add_ps(y.half[0], y.half[1]);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
#else
    float eight[8], four[4];
    for (int i = 0; i < 8; i++) eight[i] = x[i] + x[i + 8];
    for (int i = 0; i < 4; i++) four[i] = eight[i] + eight[i + 4];
    return (four[0] + four[2]) + (four[1] + four[3]);
#endif
}

INLINE float highest16(f32x16 x) {
    float best = x[0];
    for (int i = 1; i < LANES; i++) best = x[i] > best ? x[i] : best;
    return best;
}

/* The same where the order has no effect: of numbers that are not NaN, and of integers. */
INLINE float largest16(f32x16 x) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)x);
#elif HALF_TILES
    union { f32x16 all; __m256 half[2]; __m128 part[4]; } y = {x};
    y.half[0] = _mm256_max_ps(y.half[0], y.half[1]);
    y.part[0] = _mm_max_ps(y.part[0], y.part[1]);
    y.part[0] = _mm_max_ps(y.part[0], _mm_movehl_ps(y.part[0], y.part[0]));
    return _mm_cvtss_f32(_mm_max_ss(y.part[0], _mm_movehdup_ps(y.part[0])));
#else
    return highest16(x);
#endif
}

INLINE int32_t total16(i32x16 x) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32((__m512i)x);
#elif HALF_TILES
    union { i32x16 all; __m256i half[2]; __m128i part[4]; } y = {x};
    y.half[0] = _mm256_add_epi32(y.half[0], y.half[1]);
    y.part[0] = _mm_add_epi32(y.part[0], y.part[1]);
    y.part[0] = _mm_add_epi32(y.part[0], _mm_shuffle_epi32(y.part[0], 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(y.part[0], _mm_shuffle_epi32(y.part[0], 0xb1)));
#else
    int32_t sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
#endif
}

/* The low bytes of sixteen whole numbers. */
INLINE i8x16 low_bytes(i32x16 x) {
#if HALF_TILES
    union { i32x16 all; __m128i part[4]; } y = {x & 255};
    return (i8x16)_mm_packus_epi16(_mm_packs_epi32(y.part[0], y.part[1]),
                                   _mm_packs_epi32(y.part[2], y.part[3]));
#else
    return __builtin_convertvector(x, i8x16);
#endif
}

/* 0, or NaN if an element is infinite or NaN. */
INLINE float spoiled16(f32x16 x) {
#if defined(__AVX512F__)
    if (!_mm512_cmp_ps_mask((__m512)(x * 0.0f), _mm512_setzero_ps(), _CMP_UNORD_Q)) return 0;
#elif HALF_TILES
    union { f32x16 all; __m256 half[2]; } y = {x * 0.0f};
    if (!_mm256_movemask_ps(_mm256_cmp_ps(y.half[0], y.half[1], _CMP_UNORD_Q))) return 0;
#endif
    return sum16(x * 0.0f);
}

/* e^x to about one unit in the last place: x = n ln 2 + r, a polynomial in r, the exponent n put
 * in by hand. Below -87 it is 0, not a denormal; NaN stays NaN. */
#if HALF_TILES
INLINE __m256 exp8(__m256 x) {
#define ALL(number) _mm256_set1_ps(number)
    const __m256 magic = ALL(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    /* Of two numbers, `max` and `min` return the second one if the first is NaN. */
    const __m256 odd = _mm256_cmp_ps(x, x, _CMP_UNORD_Q), small = _mm256_cmp_ps(x, ALL(-87.0f), _CMP_LT_OQ);
    __m256 bounded = _mm256_max_ps(_mm256_min_ps(x, ALL(88.0f)), ALL(-87.0f));
    bounded = _mm256_andnot_ps(odd, bounded);
    const __m256 n = _mm256_sub_ps(_mm256_fmadd_ps(bounded, ALL(1.44269504088896341f), magic), magic);
    __m256 r = _mm256_fmadd_ps(n, ALL(-0.693359375f), bounded);
    r = _mm256_fmadd_ps(n, ALL(2.12194440e-4f), r);
    __m256 p = ALL(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, ALL(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, ALL(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, ALL(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, ALL(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, ALL(5.0000001201e-1f));
    p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, ALL(1.0f)));
    const __m256i whole = _mm256_add_epi32(_mm256_cvttps_epi32(n), _mm256_set1_epi32(127));
    const __m256 result = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(whole, 23)));
    return _mm256_blendv_ps(_mm256_andnot_ps(small, result), x, odd);
#undef ALL
}
INLINE f32x16 exp16(f32x16 x) {
    f32x16 out;
    const float *from = (const float *)&x;
    for (int i = 0; i < LANES; i += HALF)
        _mm256_storeu_ps((float *)&out + i, exp8(_mm256_loadu_ps(from + i)));
    return out;
}
#else
INLINE f32x16 exp16(f32x16 x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    i32x16 nan = x != x;
    f32x16 bounded = select16(x > splat(88.0f), splat(88.0f), x);
    bounded = select16(bounded < splat(-87.0f), splat(-87.0f), bounded);
    bounded = select16(nan, splat(0.0f), bounded);
    f32x16 n = fma16(bounded, splat(1.44269504088896341f), splat(magic)) - magic;
    f32x16 r = fma16(n, splat(-0.693359375f), bounded);
    r = fma16(n, splat(2.12194440e-4f), r);
    f32x16 p = splat(1.9875691500e-4f);
    p = fma16(p, r, splat(1.3981999507e-3f));
    p = fma16(p, r, splat(8.3334519073e-3f));
    p = fma16(p, r, splat(4.1665795894e-2f));
    p = fma16(p, r, splat(1.6666665459e-1f));
    p = fma16(p, r, splat(5.0000001201e-1f));
    p = fma16(p, r * r, r + 1.0f);
    i32x16 exponent = (__builtin_convertvector(n, i32x16) + 127) << 23;
    f32x16 result = p * (f32x16)exponent;
    result = select16(x < splat(-87.0f), splat(0.0f), result);
    return select16(nan, x, result);
}
#endif

/* tanh to about one unit in the last place: a polynomial near 0, where 1 - 2 / (e^2x + 1) would lose
 * digits. NaN stays NaN. */
INLINE f32x16 tanh16(f32x16 x) {
    f32x16 far = splat(1.0f) - 2.0f / (exp16(x * 2.0f) + 1.0f), z = x * x;
    f32x16 p = splat(-5.70498872745e-3f);
    p = fma16(p, z, splat(2.06390887954e-2f));
    p = fma16(p, z, splat(-5.37397155531e-2f));
    p = fma16(p, z, splat(1.33314422036e-1f));
    p = fma16(p, z, splat(-3.33332819422e-1f));
    return select16(abs16(x) < splat(0.625f), fma16(p * z, x, x), far);
}

/* Bounds values smoothly to -cap .. cap. */
INLINE f32x16 soft_cap16(f32x16 x, float cap) { return tanh16(x / cap) * cap; }

#endif
