/* Queries that pass over keys and values together: what they see, packing, and products of tiles. */
#ifndef OUTRIDER_AMX_SLAB_H
#define OUTRIDER_AMX_SLAB_H

#include "amx_attention.h"

#if HAS_AMX

enum { PLACES = 32 }; /* places of one step over values */

/* Queries that pass over the keys together. */
typedef struct {
    const Head *head;
    const Query *queries;
    int count;
    int begin, end;   /* places of the text that any of them sees */
    float *scores;    /* [WIDE_SLAB, stride]: for each query those of a span, later weights; then those
                       * of its tail, the places of a drafted row that are not those of the text */
    int64_t stride;
    uint16_t *rows;   /* [WIDE_SLAB, head_dim / 32, 2, 32] the low and high parts of the queries */
    uint16_t *packed; /* [SPAN, head_dim] keys or values as tiles */
    float *sums;      /* [WIDE_SLAB, head_dim] of weighted values */
    float *totals;    /* [WIDE_SLAB, 16] sums of weights */
    float tops[WIDE_SLAB]; /* the highest score so far */
    int shape;        /* rows of the tiles */
} Slab;

/* Sums in tiles 0 to 3, rows in 4 and 5, keys or values in 6 and 7. */
WITH_AMX static void shape_tiles(Slab *slab, int rows) {
    if (slab->shape == rows) return;
    Shapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shapes.rows[i] = (uint8_t)(i < 6 ? rows : SIDE);
        shapes.row_bytes[i] = 64;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(shapes));
    slab->shape = rows;
}

/* -- visible places -------------------------------------------------------------------------- */

INLINE int later(int a, int b) { return a > b ? a : b; }
INLINE int below(int place) { return place / PLACES * PLACES; }
INLINE int above(int place) { return below(place + PLACES - 1); }
/* The end of the places of a row: its drafted ancestors follow the text. */
INLINE int end_of(const Query *q) { return q->base + q->trim + q->extras; }
/* The first visible place. */
INLINE int begin_of(const Query *q) { return q->first < q->base ? q->first : q->base + q->trim; }
/* From this place on, the keys of a drafted row are not those of the text alone. */
INLINE int edge_of(const Query *q) {
    if (!q->extras) return above(q->base);
    return below(later(begin_of(q), q->base));
}

/* The number of queries from `q` on that see the same keys. */
static int alike(const Slab *slab, int q) {
    const Query *a = slab->queries + q;
    int count = 1;
    for (; q + count < slab->count; count++) {
        const Query *b = a + count;
        if (b->first != a->first || b->base != a->base || b->extras != a->extras ||
            (a->extras && b->extra != a->extra))
            break;
    }
    return count;
}

/* -- packing --------------------------------------------------------------------------------- */

typedef union { __m512i all; uint16_t words[32]; } Words;

/* Word 2 i is `first + i`, and word 2 i + 1 is `second + i`. */
INLINE __m512i alternating(int first, int second) {
    Words order;
    for (int i = 0; i < 16; i++)
        order.words[2 * i] = (uint16_t)(first + i), order.words[2 * i + 1] = (uint16_t)(second + i);
    return order.all;
}

/* The keys of `count` blocks of 16 slots: neighbouring dimensions side by side. */
static void pack_keys(const Slab *slab, int slot, int count) {
    const int64_t vectors = (int64_t)count * slab->head->head_dim / 2;
    const __m512i order = alternating(0, 16);
    const char *from = slab->head->keys + (int64_t)slot * slab->head->head_dim * 2;
    char *to = (char *)slab->packed;
    for (int64_t i = 0; i < vectors; i++)
        _mm512_store_si512(to + i * 64,
                           _mm512_permutexvar_epi16(order, _mm512_loadu_si512(from + i * 64)));
}

/* The keys of the drafted rows that a query sees, as blocks of 16. */
static void gather_keys(const Slab *slab, const Query *q, int from, int count) {
    const int D = slab->head->head_dim;
    const uint16_t *keys = (const uint16_t *)slab->head->keys;
    memset(slab->packed, 0, (size_t)above(count) * D * 2);
    for (int j = 0; j < count; j++) {
        const int slot = q->extra[from + j] + slab->head->shift;
        const uint16_t *key = keys + (int64_t)(slot / LANES) * D * LANES + slot % LANES;
        uint16_t *to = slab->packed + j / LANES * D * LANES + j % LANES * 2;
        for (int d = 0; d < D; d++) to[d / 2 * 32 + d % 2] = key[d * LANES];
    }
}

/* Two values as rows of tiles: neighbouring places side by side. */
INLINE void pack_two(const uint16_t *even, const uint16_t *odd, int D, int pair, char *to) {
    const __m512i low = alternating(0, 32), high = alternating(16, 48);
    for (int d = 0; d < D; d += 32) {
        const __m512i a = _mm512_loadu_si512(even + d), b = _mm512_loadu_si512(odd + d);
        char *place = to + d / 16 * TILE_BYTES + pair * 64;
        _mm512_store_si512(place, _mm512_permutex2var_epi16(a, low, b));
        _mm512_store_si512(place + TILE_BYTES, _mm512_permutex2var_epi16(a, high, b));
    }
}

static const uint16_t no_value[WIDEST_HEAD];

/* The value at a place; zeros where no row sees it, since memory there may hold NaN. */
INLINE const uint16_t *value_at(const Slab *slab, const Query *q, int place, int begin, int end) {
    const uint16_t *values = (const uint16_t *)slab->head->values;
    if (place < begin || place >= end) return no_value;
    int64_t slot = place;
    if (q && place >= q->base) slot = q->extra[place - q->base - q->trim] + slab->head->shift;
    return values + slot * slab->head->head_dim;
}

/* The values of `count` places; `q` is a drafted row, or NULL for those of the text. */
static void pack_values(const Slab *slab, const Query *q, int from, int count, int begin, int end) {
    const int D = slab->head->head_dim;
    for (int i = 0; i < count; i += 2)
        pack_two(value_at(slab, q, from + i, begin, end), value_at(slab, q, from + i + 1, begin, end),
                 D, i % PLACES / 2, (char *)(slab->packed + i / PLACES * PLACES * D));
}

/* The nearest numbers in bfloat16, ties to even; NaN stays NaN. */
INLINE f32x16 brief16(f32x16 x) {
    const u32x16 bits = (u32x16)x, near = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    return select16(x != x, x, (f32x16)near);
}

/* The upper halves of two vectors. */
INLINE __m512i upper_halves(f32x16 a, f32x16 b) {
    Words order;
    for (int i = 0; i < 32; i++) order.words[i] = (uint16_t)(2 * i + 1);
    return _mm512_permutex2var_epi16((__m512i)a, order.all, (__m512i)b);
}

/* A query as the sum of two numbers in bfloat16, the low parts first. */
static void pack_query(const Slab *slab, int q) {
    const int D = slab->head->head_dim;
    const float *query = slab->queries[q].query;
    uint16_t *to = slab->rows + (int64_t)q * 2 * D;
    for (int d = 0; d < D; d += 32, to += 64) {
        const f32x16 x = load(query + d), y = load(query + d + LANES);
        const f32x16 high = brief16(x), other = brief16(y);
        _mm512_store_si512(to, upper_halves(brief16(x - high), brief16(y - other)));
        _mm512_store_si512(to + 32, upper_halves(high, other));
    }
}

/* -- products -------------------------------------------------------------------------------- */

/* Scores of the packed keys, for the rows of a tile from query `q` on; `count` is a multiple of 32. */
WITH_AMX static void score_packed(const Slab *slab, int q, const uint16_t *packed, float *to,
                                  int count) {
    const int D = slab->head->head_dim;
    const int64_t a_block = (int64_t)D * LANES * 2, stride = slab->stride * 4;
    const char *rows = (const char *)(slab->rows + (int64_t)q * 2 * D);
    const char *keys = (const char *)packed;
#define SCORE_TWO(X, Y)                                                                          \
    CLEAR_TILE(X);                                                                               \
    CLEAR_TILE(Y);                                                                               \
    for (int d = 0; d < D / 32; d++) {                                                           \
        LOAD_TILE(6, keys + d * TILE_BYTES, 64);                                                 \
        LOAD_TILE(4, rows + d * 128, D * 4);                                                     \
        DOT_BRIEFS(X, 4, 6);                                                                     \
        LOAD_TILE(7, keys + a_block + d * TILE_BYTES, 64);                                       \
        DOT_BRIEFS(Y, 4, 7);                                                                     \
        LOAD_TILE(5, rows + d * 128 + 64, D * 4);                                                \
        DOT_BRIEFS(X, 5, 6);                                                                     \
        DOT_BRIEFS(Y, 5, 7);                                                                     \
    }                                                                                            \
    STORE_TILE(X, to, stride);                                                                   \
    STORE_TILE(Y, to + LANES, stride)
    for (int place = 0; place < count; place += PLACES, keys += 2 * a_block, to += PLACES) {
        if (place / PLACES % 2) {
            SCORE_TWO(2, 3);
        } else {
            SCORE_TWO(0, 1);
        }
    }
#undef SCORE_TWO
}

/* Adds the packed values of `count` places to W tiles of sums, from dimension `d` on. */
WITH_AMX static inline __attribute__((always_inline)) void
add_packed(const Slab *slab, int q, const uint16_t *packed, const float *weights, int count, int d,
           int W) {
    const int D = slab->head->head_dim;
    float *sums = slab->sums + (int64_t)q * D + d;
    const char *values = (const char *)packed + d / 16 * TILE_BYTES;
    LOAD_TILE(0, sums, D * 4);
    LOAD_TILE(1, sums + 16, D * 4);
    if (W == 4) {
        LOAD_TILE(2, sums + 32, D * 4);
        LOAD_TILE(3, sums + 48, D * 4);
    }
    for (int place = 0; place < count; place += PLACES, values += PLACES * D * 2, weights += PLACES) {
        LOAD_TILE(4, (const char *)weights, slab->stride * 4);
        LOAD_TILE(5, (const char *)weights + 64, slab->stride * 4);
        LOAD_TILE(6, values, 64);
        DOT_BRIEFS(0, 4, 6);
        LOAD_TILE(7, values + TILE_BYTES, 64);
        DOT_BRIEFS(1, 4, 7);
        DOT_BRIEFS(0, 5, 6);
        DOT_BRIEFS(1, 5, 7);
        if (W == 4) {
            LOAD_TILE(6, values + 2 * TILE_BYTES, 64);
            DOT_BRIEFS(2, 4, 6);
            LOAD_TILE(7, values + 3 * TILE_BYTES, 64);
            DOT_BRIEFS(3, 4, 7);
            DOT_BRIEFS(2, 5, 6);
            DOT_BRIEFS(3, 5, 7);
        }
    }
    STORE_TILE(0, sums, D * 4);
    STORE_TILE(1, sums + 16, D * 4);
    if (W == 4) {
        STORE_TILE(2, sums + 32, D * 4);
        STORE_TILE(3, sums + 48, D * 4);
    }
}

WITH_AMX static void add_values_packed(const Slab *slab, int q, const uint16_t *packed,
                                       const float *weights, int count) {
    int d = 0;
    for (; d + 64 <= slab->head->head_dim; d += 64) add_packed(slab, q, packed, weights, count, d, 4);
    for (; d < slab->head->head_dim; d += 32) add_packed(slab, q, packed, weights, count, d, 2);
}

#endif

#endif
