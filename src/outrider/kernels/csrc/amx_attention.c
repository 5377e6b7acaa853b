/* Attention over keys and values in bfloat16, by tiles.
 *
 * A query, and the weights of its keys, are each the sum of two numbers in bfloat16, so products are
 * those of 16 digits by the numbers of the cache, added in float32. The place of a key is its index
 * in the text of the row, be it the slot of a text or a drafted row in another slot. Scores do not
 * depend on other keys. Weights are relative to the highest score so far, which is raised between
 * spans of 256 places (Dao et al. 2022); values are added in blocks of 32 places. Both begin at
 * multiples of their size. So a row has the same bits alone, in a block of rows, and as a drafted
 * row. */
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

INLINE int below(int place) { return place / PLACES * PLACES; }
INLINE int above(int place) { return below(place + PLACES - 1); }
/* The end of the places of a row: its drafted ancestors follow the text. */
INLINE int end_of(const Query *q) { return q->base + q->trim + q->extras; }
/* The first visible place. */
INLINE int begin_of(const Query *q) { return q->first < q->base ? q->first : q->base + q->trim; }
/* From this place on, the keys of a drafted row are not those of the text alone. */
INLINE int edge_of(const Query *q) {
    if (!q->extras) return above(q->base);
    return below(begin_of(q) > q->base ? begin_of(q) : q->base);
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
        const int slot = q->extra[from + j];
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
    const int64_t slot = q && place >= q->base ? q->extra[place - q->base - q->trim] : place;
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

/* -- weights --------------------------------------------------------------------------------- */

/* e^x for x <= 0, as `exp16` with fewer operations: the exponent is added to the bits of the
 * polynomial. 0 below -87; NaN stays NaN. */
INLINE f32x16 exp_of_negative(f32x16 x) {
    const __mmask16 near = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
    const f32x16 magic = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    const f32x16 moved = fma16(x, splat(1.44269504088896341f), magic), n = moved - magic;
    const f32x16 r = fma16(n, splat(2.12194440e-4f), fma16(n, splat(-0.693359375f), x));
    f32x16 p = splat(1.9875691500e-4f);
    p = fma16(p, r, splat(1.3981999507e-3f));
    p = fma16(p, r, splat(8.3334519073e-3f));
    p = fma16(p, r, splat(4.1665795894e-2f));
    p = fma16(p, r, splat(1.6666665459e-1f));
    p = fma16(p, r, splat(5.0000001201e-1f));
    p = fma16(p, r * r, r + 1.0f);
    return (f32x16)_mm512_maskz_add_epi32(near, (__m512i)p, (__m512i)((i32x16)moved << 23));
}

/* Replaces scores of `count` places, a multiple of 32, by weights: for each 32, their high parts and
 * then their low parts. */
INLINE void soften_blocks(float *scores, int count, f32x16 top, f32x16 *sum) {
    for (int i = 0; i < count; i += PLACES) {
        const f32x16 a = exp_of_negative(load(scores + i) - top);
        const f32x16 b = exp_of_negative(load(scores + i + LANES) - top);
        *sum = *sum + a;
        *sum = *sum + b;
        const f32x16 high_a = (f32x16)((i32x16)a & -65536), high_b = (f32x16)((i32x16)b & -65536);
        const i32x16 low_a = (i32x16)(a - high_a) + 0x8000, low_b = (i32x16)(b - high_b) + 0x8000;
        _mm512_storeu_si512(scores + i, upper_halves(a, b));
        _mm512_storeu_si512(scores + i + LANES, upper_halves((f32x16)low_a, (f32x16)low_b));
    }
}

INLINE void cap_blocks(float *scores, int count, float cap) {
    for (int i = 0; i < count && cap; i += LANES) store(scores + i, soft_cap16(load(scores + i), cap));
}

INLINE f32x16 highest_of(const float *scores, int count, f32x16 best) {
    for (int i = 0; i < count; i += LANES) best = (f32x16)_mm512_max_ps((__m512)load(scores + i), (__m512)best);
    return best;
}

INLINE float *row_of(const Slab *slab, int q) { return slab->scores + q * slab->stride; }
INLINE float *tail_of(const Slab *slab, int q) { return row_of(slab, q) + SPAN; }
INLINE int span_at(int place) { return place / SPAN * SPAN; }
INLINE int later(int a, int b) { return a > b ? a : b; }

/* Places from .. to - 1 of a row, multiples of 32, whose scores begin at `scores`. */
typedef struct { float *scores; int from, to; } Part;

INLINE Part part_of(float *scores, int from, int to) {
    return (Part){scores, from, later(from, to)};
}

/* The places of a span that a query sees in the text. */
INLINE Part text_part(const Slab *slab, int index, int span) {
    const Query *q = slab->queries + index;
    const int from = later(below(begin_of(q)), span), to = fewer(edge_of(q), span + SPAN);
    return part_of(row_of(slab, index) + from - span, from, to);
}

/* The places of a span in the tail of a drafted row. */
INLINE Part tail_part(const Slab *slab, int index, int span) {
    const Query *q = slab->queries + index;
    const int edge = edge_of(q), from = later(edge, span);
    return part_of(tail_of(slab, index) + from - edge, from, fewer(above(end_of(q)), span + SPAN));
}

/* Hides what a query does not see at the ends of a part, and returns the highest scores. */
INLINE f32x16 bound_part(const Slab *slab, const Query *q, Part part, f32x16 best) {
    const int begin = begin_of(q), end = end_of(q);
    cap_blocks(part.scores, part.to - part.from, slab->head->cap);
    for (int p = part.from; p < part.to && p < begin; p++) part.scores[p - part.from] = -INFINITY;
    for (int p = later(part.from, end); p < part.to; p++) part.scores[p - part.from] = -INFINITY;
    return highest_of(part.scores, part.to - part.from, best);
}

/* Replaces the scores of a span by weights, and lowers the sums so far if there is a higher score. */
static void weigh(Slab *slab, int index, Part text, Part tail) {
    const Query *q = slab->queries + index;
    const int D = slab->head->head_dim;
    const float before = slab->tops[index];
    float *sums = slab->sums + (int64_t)index * D;
    f32x16 total = load(slab->totals + index * LANES);
    if (text.from == text.to && tail.from == tail.to) return;
    const f32x16 best = bound_part(slab, q, text, splat(-INFINITY));
    const float highest = largest16(bound_part(slab, q, tail, best));
    const float top = highest > before ? highest : before;
    if (top > before && before > -INFINITY) {
        const f32x16 factor = exp_of_negative(splat(before - top));
        for (int d = 0; d < D; d += LANES) store(sums + d, load(sums + d) * factor);
        total = total * factor;
    }
    slab->tops[index] = top;
    soften_blocks(text.scores, text.to - text.from, splat(top), &total);
    soften_blocks(tail.scores, tail.to - tail.from, splat(top), &total);
    store(slab->totals + index * LANES, total);
}

/* -- steps ----------------------------------------------------------------------------------- */

/* Scores of the drafted rows that `alike` queries see. */
static void score_drafted(Slab *slab, int first, int alike) {
    const Query *query = slab->queries + first;
    const int at = query->base + query->trim - edge_of(query);
    for (int done = 0, count; done < query->extras; done += count) {
        count = fewer(query->extras - done, SPAN);
        gather_keys(slab, query, done, count);
        for (int q = first; q < first + alike; q += SIDE) {
            shape_tiles(slab, fewer(first + alike - q, SIDE));
            score_packed(slab, q, slab->packed, tail_of(slab, q) + at + done, above(count));
        }
    }
}

/* The part of a span of the text that some of the 16 queries from `first` on see. */
static Part union_of(const Slab *slab, int first, int span) {
    int from = span + SPAN, to = span;
    for (int q = first; q < fewer(first + SIDE, slab->count); q++) {
        from = fewer(from, begin_of(slab->queries + q));
        to = later(to, slab->queries[q].base);
    }
    from = later(below(from), span);
    return part_of(row_of(slab, first) + from - span, from, fewer(above(to), span + SPAN));
}

/* Weights of a span of one query, with those of the tail in the same span; 0 in the places of the
 * text that only other queries see. */
static void weigh_span(Slab *slab, int index, int span, Part whole) {
    const Query *q = slab->queries + index;
    const int edge = edge_of(q);
    const Part text = text_part(slab, index, span);
    Part tail = {0};
    if (q->extras && span_at(edge) == span) {
        tail = tail_part(slab, index, span);
        if (edge < q->base)
            memcpy(tail_of(slab, index), row_of(slab, index) + edge - span,
                   sizeof(float) * (q->base - edge));
    }
    weigh(slab, index, text, tail);
    float *row = row_of(slab, index) - span;
    const int seen = text.from < text.to, from = seen ? text.from : whole.to;
    memset(row + whole.from, 0, sizeof(float) * (from - whole.from));
    if (seen && text.to < whole.to) memset(row + text.to, 0, sizeof(float) * (whole.to - text.to));
}

/* One span of the text, for all queries. */
static void attend_span(Slab *slab, int span) {
    const int D = slab->head->head_dim, from = later(below(slab->begin), span);
    const int to = fewer(above(slab->end), span + SPAN);
    shape_tiles(slab, fewer(slab->count, SIDE));
    pack_keys(slab, from, (to - from) / LANES);
    for (int q = 0; q < slab->count; q += SIDE) {
        const Part whole = union_of(slab, q, span);
        score_packed(slab, q, slab->packed + (int64_t)(whole.from - from) * D, whole.scores,
                     whole.to - whole.from);
    }
    pack_values(slab, NULL, from, to - from, slab->begin, slab->end);
    for (int q = 0; q < slab->count; q += SIDE) {
        const Part whole = union_of(slab, q, span);
        if (whole.from == whole.to) continue;
        for (int i = q; i < fewer(q + SIDE, slab->count); i++) weigh_span(slab, i, span, whole);
        add_values_packed(slab, q, slab->packed + (int64_t)(whole.from - from) * D, whole.scores,
                          whole.to - whole.from);
    }
}

/* Whether a span was met by `attend_span`. */
INLINE int is_met(const Slab *slab, int index, int span) {
    const Part whole = union_of(slab, index / SIDE * SIDE, span);
    return whole.from < whole.to;
}

/* The tail of a drafted row, for `alike` queries. */
static void attend_tail(Slab *slab, int first, int alike) {
    const Query *query = slab->queries + first;
    const int edge = edge_of(query), end = above(end_of(query));
    for (int span = span_at(edge); span < end; span += SPAN) {
        const Part part = tail_part(slab, first, span);
        for (int q = first; q < first + alike; q++)
            if (span > edge || !is_met(slab, q, span))
                weigh(slab, q, (Part){0}, tail_part(slab, q, span));
        pack_values(slab, query, part.from, part.to - part.from, begin_of(query), end_of(query));
        for (int q = first; q < first + alike; q += SIDE) {
            shape_tiles(slab, fewer(first + alike - q, SIDE));
            add_values_packed(slab, q, slab->packed, tail_of(slab, q) + part.from - edge,
                              part.to - part.from);
        }
    }
}

/* -- attention ------------------------------------------------------------------------------- */

static void begin_slab(Slab *slab) {
    slab->begin = begin_of(slab->queries), slab->end = slab->queries->base, slab->shape = 0;
    for (int q = 0; q < slab->count; q++) {
        slab->begin = fewer(slab->begin, begin_of(slab->queries + q));
        slab->end = later(slab->end, slab->queries[q].base);
        slab->tops[q] = -INFINITY;
        pack_query(slab, q);
    }
    memset(slab->sums, 0, sizeof(float) * slab->head->head_dim * slab->count);
    memset(slab->totals, 0, sizeof(float) * LANES * slab->count);
}

/* Writes the results; returns whether all are finite. */
static int finish_slab(const Slab *slab) {
    const int D = slab->head->head_dim;
    f32x16 odd = (f32x16){0};
    for (int q = 0; q < slab->count; q++) {
        const float *sums = slab->sums + (int64_t)q * D;
        const float share = 1.0f / sum16(load(slab->totals + q * LANES));
        for (int d = 0; d < D; d += LANES) { /* 0 is added since a sum of hidden values may be -0 */
            const f32x16 mean = load(sums + d) * splat(share) + splat(0.0f);
            store(slab->queries[q].out + d, mean);
            odd = odd + mean * 0.0f;
        }
    }
    return sum16(odd) == 0;
}

WITH_AMX static int attend_slab(Slab *slab) {
    begin_slab(slab);
    for (int q = 0, own; q < slab->count; q += own) {
        own = alike(slab, q);
        if (slab->queries[q].extras) score_drafted(slab, q, own);
    }
    for (int span = span_at(slab->begin); span < slab->end; span += SPAN) attend_span(slab, span);
    for (int q = 0, own; q < slab->count; q += own) {
        own = alike(slab, q);
        if (slab->queries[q].extras) attend_tail(slab, q, own);
    }
    END_TILES();
    return finish_slab(slab);
}

void amx_attend(const Head *head, const Query *queries, int count, float *scores, int64_t stride,
                void *memory) {
    const int D = head->head_dim;
    Slab slab = {.head = head, .queries = queries, .count = count, .scores = scores,
                 .stride = stride, .sums = memory};
    slab.totals = slab.sums + (int64_t)WIDE_SLAB * D;
    slab.rows = (uint16_t *)(slab.totals + WIDE_SLAB * LANES);
    slab.packed = slab.rows + (int64_t)WIDE_SLAB * 2 * D;
    if (attend_slab(&slab)) return;
    /* A hidden value with a weight of 0 makes a sum NaN if it is infinite or NaN: one row at a time,
     * with zeros in the place of hidden values. */
    const Slab whole = slab;
    for (int q = 0, own; q < count; q += own) {
        own = alike(&whole, q);
        if (own == count) return;
        slab.queries = queries + q, slab.count = own;
        attend_slab(&slab);
    }
}

#else

void amx_attend(const Head *head, const Query *queries, int count, float *scores, int64_t stride,
                void *memory) {
    (void)head, (void)queries, (void)count, (void)scores, (void)stride, (void)memory;
}

#endif
