/* Keys and values in a cache: in float32, bfloat16, or 8 bits with a scale for each 32 numbers of a
 * head. Attention reads them as floats, some slots at a time. */
#ifndef OUTRIDER_CACHED_H
#define OUTRIDER_CACHED_H

#include "model.h"
#include "rows.h"

enum { SLOTS_AS_FLOATS = 64 }; /* slots whose keys or values are floats at one time */

/* Keys and values of one layer and key head. */
typedef struct {
    char *keys, *values;               /* [slots / 16, head_dim, 16] and [slots, head_dim] */
    float *key_scales, *value_scales;  /* [slots / 16, groups, 16] and [slots, groups] (INT8) */
    int kind, size, head_dim, groups;  /* `size`: bytes of a number */
    int shift;                         /* slot s of the text lies in slot s + shift */
    float cap;                         /* soft cap of the scores, or 0 */
    float *floats;                     /* [SLOTS_AS_FLOATS, head_dim], for what is read */
} Head;

/* What is added to a slot of the text for its slot in a plane: a pair of layer and key head. */
INLINE int shift_of(const Cache *cache, int64_t plane) {
    return cache->shift ? cache->shift[plane] : 0;
}

INLINE Head head_of(const Cache *cache, int64_t plane, int head_dim, float *floats) {
    const int size = cache->kind == FLOAT32 ? 4 : cache->kind == BFLOAT16 ? 2 : 1;
    const int groups = (head_dim + GROUP - 1) / GROUP;
    const int64_t first = cache->first ? cache->first[plane] : plane * cache->capacity;
    Head head = {.keys = (char *)cache->keys + first * head_dim * size,
                 .values = (char *)cache->values + first * head_dim * size,
                 .kind = cache->kind, .size = size, .head_dim = head_dim, .groups = groups,
                 .shift = shift_of(cache, plane), .floats = floats};
    if (cache->kind == INT8) {
        head.key_scales = cache->key_scales + first * groups;
        head.value_scales = cache->value_scales + first * groups;
    }
    return head;
}

/* -- writing --------------------------------------------------------------------------------- */

/* The nearest bfloat16, ties to even. */
INLINE uint16_t brief_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x != x) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Writes the numbers of a head, which lie `stride` numbers apart, and their scales likewise. */
INLINE void write_numbers(const Head *head, const float *x, char *to, float *scales, int stride) {
    if (head->kind == FLOAT32)
        for (int d = 0; d < head->head_dim; d++) ((float *)to)[d * stride] = x[d];
    else if (head->kind == BFLOAT16)
        for (int d = 0; d < head->head_dim; d++) ((uint16_t *)to)[d * stride] = brief_of(x[d]);
    else
        for (int g = 0; g < head->groups; g++) {
            int8_t quants[GROUP];
            int32_t sum;
            const int left = head->head_dim - g * GROUP, count = left < GROUP ? left : GROUP;
            quantize_groups(x + g * GROUP, count, quants, scales + g * stride, &sum);
            for (int i = 0; i < count; i++)
                ((int8_t *)to)[(g * GROUP + i) * stride] = quants[i];
        }
}

/* Writes the key of a slot of the plane. */
INLINE void write_key(const Head *head, int64_t slot, const float *key) {
    const int64_t block = slot / LANES, lane = slot % LANES;
    write_numbers(head, key, head->keys + (block * head->head_dim * LANES + lane) * head->size,
                  head->kind == INT8 ? head->key_scales + block * head->groups * LANES + lane : NULL,
                  LANES);
}

/* Writes the key and value of slot `slot` of the text. */
INLINE void write_slot(const Head *head, int slot, const float *key, const float *value) {
    slot += head->shift;
    const int scaled = head->kind == INT8;
    write_key(head, slot, key);
    write_numbers(head, value, head->values + (int64_t)slot * head->head_dim * head->size,
                  scaled ? head->value_scales + (int64_t)slot * head->groups : NULL, 1);
}

/* -- reading --------------------------------------------------------------------------------- */

INLINE f32x16 load_brief(const uint16_t *p) {
    return (f32x16)(__builtin_convertvector(*(const u16x16 *)p, u32x16) << 16);
}

INLINE f32x16 load_quants(const int8_t *p) {
    return __builtin_convertvector(load_signed(p), f32x16);
}

INLINE void floats_of_briefs(const uint16_t *from, int64_t count, float *out) {
    int64_t i = 0;
#if HALF_TILES /* compilers convert a vector of 64 bytes one by one */
    for (; i + HALF <= count; i += HALF)
        _mm256_storeu_si256((__m256i *)(out + i),
                            _mm256_slli_epi32(_mm256_cvtepu16_epi32(
                                _mm_loadu_si128((const __m128i *)(from + i))), 16));
#endif
    for (; i + LANES <= count; i += LANES) store(out + i, load_brief(from + i));
    for (; i < count; i++) out[i] = bfloat(from[i]);
}

/* Reads the key of a slot of the plane. */
INLINE void read_key(const Head *head, int64_t slot, float *key) {
    const int64_t block = slot / LANES, lane = slot % LANES, D = head->head_dim;
    const char *from = head->keys + (block * D * LANES + lane) * head->size;
    for (int64_t d = 0; d < D; d++) {
        if (head->kind == FLOAT32) key[d] = ((const float *)from)[d * LANES];
        else if (head->kind == BFLOAT16) key[d] = bfloat(((const uint16_t *)from)[d * LANES]);
        else
            key[d] = (float)((const int8_t *)from)[d * LANES] *
                     head->key_scales[(block * head->groups + d / GROUP) * LANES + lane];
    }
}

/* The keys of `count` blocks, [count, head_dim, 16]. */
INLINE const float *floats_of_keys(const Head *head, int64_t block, int count) {
    const int64_t size = (int64_t)head->head_dim * LANES;
    const char *from = head->keys + block * size * head->size;
    if (head->kind == FLOAT32) return (const float *)from;
    if (head->kind == BFLOAT16) {
        floats_of_briefs((const uint16_t *)from, count * size, head->floats);
        return head->floats;
    }
    const float *scales = head->key_scales + block * head->groups * LANES;
    float *out = head->floats;
    for (int i = 0; i < count; i++, scales += head->groups * LANES)
        for (int d = 0; d < head->head_dim; d++, from += LANES, out += LANES)
            store(out, load_quants((const int8_t *)from) * load(scales + d / GROUP * LANES));
    return head->floats;
}

/* The values of `count` slots, [count, head_dim]. */
INLINE const float *floats_of_values(const Head *head, int64_t slot, int count) {
    const int D = head->head_dim;
    const char *from = head->values + slot * D * head->size;
    if (head->kind == FLOAT32) return (const float *)from;
    if (head->kind == BFLOAT16) {
        floats_of_briefs((const uint16_t *)from, (int64_t)count * D, head->floats);
        return head->floats;
    }
    const float *scales = head->value_scales + slot * head->groups;
    float *out = head->floats;
    for (int i = 0; i < count; i++, scales += head->groups, from += D, out += D) {
        int d = 0;
        for (; d + LANES <= D; d += LANES)
            store(out + d, load_quants((const int8_t *)from + d) * splat(scales[d / GROUP]));
        for (; d < D; d++) out[d] = (float)((const int8_t *)from)[d] * scales[d / GROUP];
    }
    return head->floats;
}

#endif
