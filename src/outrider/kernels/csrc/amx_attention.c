/* Attention over keys and values in bfloat16, by tiles.
 *
 * A query, and the weights of its keys, are each the sum of two numbers in bfloat16, so products are
 * those of 16 digits by the numbers of the cache, added in float32. The place of a key is its index
 * in the text of the row, be it the slot of a text or a drafted row in another slot. Scores do not
 * depend on other keys. Weights are relative to the highest score so far, which is raised between
 * spans of 256 places (Dao et al. 2022); values are added in blocks of 32 places. Both begin at
 * multiples of their size. So a row has the same bits alone, in a block of rows, and as a drafted
 * row. */
#include "amx_slab.h"

#if HAS_AMX

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
