/* Attention of rows over their visible keys, each in the order of its text.
 *
 * Scores, sums and averages of a row are computed over keys in path order, each in its own vector
 * element. So a row has the same bits alone, in a block of rows, and as a drafted row, regardless of
 * siblings between its keys in memory. A block shares each key and value that it loads. */
#ifndef OUTRIDER_ATTENTION_H
#define OUTRIDER_ATTENTION_H

#include <math.h>

#include "cached.h"

/* Queries and blocks of 16 keys of one tile, whose sums fit into the registers. */
#if defined(__AVX512F__)
enum { MOST_QUERIES = 6, WIDE = 4 };
#else
enum { MOST_QUERIES = 3, WIDE = 2 };
#endif
enum { SLAB = 32 };       /* queries that pass over the keys together */
/* Values that stay in the first-level cache while all queries use them. */
enum { VALUES_A_PASS = SLOTS_AS_FLOATS };

INLINE int fewer(int a, int b) { return a < b ? a : b; }

/* One query head of one row. */
typedef struct {
    const float *query; /* [head_dim] */
    float *scores;      /* of slot `first` and what follows, in path order; 16 floats precede it */
    float *out;         /* [head_dim] */
    int first, base;    /* visible slots of the plane: first .. base - 1 */
    const int32_t *extra;
    int extras; /* slots of draft ancestors in the text */
    int trim;   /* draft ancestors before these, which the row does not see */
} Query;

/* `score_blocks` writes the scores of B blocks of 16 keys for Q queries, from slot `slot` on;
 * `add_values` adds weight * value for the slots `from .. to - 1`, whose values begin at `value`, to
 * `out[d ..]` of Q queries, W vectors of 16 wide. */
#if HALF_TILES
#include "attention_half.h"
#else
INLINE void score_blocks(const float *blocks, int head_dim, const Query *queries, int slot, int Q,
                         int B) {
    const int64_t size = (int64_t)head_dim * LANES;
    f32x16 scores[MOST_QUERIES][WIDE];
    for (int q = 0; q < Q; q++)
        for (int i = 0; i < B; i++) scores[q][i] = (f32x16){0};
    for (int d = 0; d < head_dim; d++) {
        f32x16 key[WIDE];
#pragma GCC unroll 4
        for (int i = 0; i < B; i++) key[i] = load(blocks + i * size + d * LANES);
#pragma GCC unroll 6
        for (int q = 0; q < Q; q++) {
            f32x16 x = splat(queries[q].query[d]);
#pragma GCC unroll 4
            for (int i = 0; i < B; i++) scores[q][i] = fma16(x, key[i], scores[q][i]);
        }
    }
    for (int q = 0; q < Q; q++)
        for (int i = 0; i < B; i++) {
            const int from = slot + i * LANES; /* hidden slots inside a block do no harm */
            if (from < queries[q].base && from + LANES > queries[q].first)
                store(queries[q].scores + from - queries[q].first, scores[q][i]);
        }
}

INLINE void add_values(const float *value, int head_dim, const Query *queries, int from, int to,
                       int d, int Q, int W) {
    f32x16 sums[MOST_QUERIES][4];
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < W; v++) sums[q][v] = load(queries[q].out + d + v * LANES);
    value += d;
    for (int slot = from; slot < to; slot++, value += head_dim) {
        f32x16 x[4];
#pragma GCC unroll 4
        for (int v = 0; v < W; v++) x[v] = load(value + v * LANES);
#pragma GCC unroll 6
        for (int q = 0; q < Q; q++) {
            f32x16 weight = splat(queries[q].scores[slot - queries[q].first]);
#pragma GCC unroll 4
            for (int v = 0; v < W; v++) sums[q][v] = fma16(weight, x[v], sums[q][v]);
        }
    }
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < W; v++) store(queries[q].out + d + v * LANES, sums[q][v]);
}
#endif

/* Counts above MOST_QUERIES do not occur; their cases only have to compile. */
#define FOR_QUERIES(COUNT, CALL)                                                                 \
    switch (COUNT) {                                                                             \
    case 1: CALL(1); break;                                                                      \
    case 2: CALL(2); break;                                                                      \
    case 3: CALL(3); break;                                                                      \
    case 4: CALL(MOST_QUERIES < 4 ? 1 : 4); break;                                               \
    case 5: CALL(MOST_QUERIES < 5 ? 1 : 5); break;                                               \
    case 6: CALL(MOST_QUERIES < 6 ? 1 : 6); break;                                               \
    }

static __attribute__((noinline)) void score_tile(const float *blocks, int head_dim,
                                                 const Query *queries, int slot, int count,
                                                 int wide) {
#define WIDE_CALL(Q) score_blocks(blocks, head_dim, queries, slot, Q, WIDE)
#define ONE_CALL(Q) score_blocks(blocks, head_dim, queries, slot, Q, 1)
    if (wide == WIDE) FOR_QUERIES(count, WIDE_CALL)
    else FOR_QUERIES(count, ONE_CALL)
}

static __attribute__((noinline)) void add_tile(const float *values, int D, const Query *queries,
                                               int from, int to, int count) {
    int d = 0;
#if defined(__AVX512F__)
#define FOUR_CALL(Q) add_values(values, D, queries, from, to, d, Q, 4)
    for (; d + 64 <= D; d += 64) FOR_QUERIES(count, FOUR_CALL)
#else
#define TWO_CALL(Q) add_values(values, D, queries, from, to, d, Q, 2)
    for (; d + 32 <= D; d += 32) FOR_QUERIES(count, TWO_CALL)
#endif
#define SINGLE_CALL(Q) add_values(values, D, queries, from, to, d, Q, 1)
    for (; d + LANES <= D; d += LANES) FOR_QUERIES(count, SINGLE_CALL)
    for (; d < D; d++)
        for (int q = 0; q < count; q++)
            for (int slot = from; slot < to; slot++)
                queries[q].out[d] += queries[q].scores[slot - queries[q].first] *
                                     values[(int64_t)(slot - from) * D + d];
}

/* Adds the values of the slots `from .. to - 1` to `out` of the queries. */
static void add_slots(const Head *head, const Query *queries, int from, int to, int count) {
    for (int slot = from, next; slot < to; slot = next) {
        next = fewer(slot + VALUES_A_PASS, to);
        const float *values = floats_of_values(head, slot, next - slot);
        for (int q = 0; q < count; q += MOST_QUERIES)
            add_tile(values, head->head_dim, queries + q, slot, next,
                     fewer(count - q, MOST_QUERIES));
    }
}

/* Adds the value of one slot, with weight number `place` of the query. */
INLINE void add_slot(const Head *head, Query query, int slot, int place) {
    query.scores += place, query.first = slot;
    add_slots(head, &query, slot, slot + 1, 1);
}

/* The score of one key, with the operations of `score_blocks`. */
INLINE float score_slot(const Head *head, const float *query, int slot) {
    const float *block = floats_of_keys(head, slot / LANES, 1);
    f32x16 sum = (f32x16){0};
    for (int d = 0; d < head->head_dim; d++)
        sum = fma16(splat(query[d]), load(block + d * LANES), sum);
    return sum[slot % LANES];
}

/* Converts scores to weights in place; returns their sum, by which they are not yet divided. */
INLINE float soften(float *scores, int count) {
    int padded = (count + LANES - 1) / LANES * LANES;
    for (int j = count; j < padded; j++) scores[j] = -INFINITY;
    f32x16 best = splat(-INFINITY), sum = (f32x16){0};
    for (int j = 0; j < padded; j += LANES) best = max16(best, load(scores + j));
    const float top = largest16(best); /* a NaN spoils the sum */
#if HALF_TILES
    __m256 part[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int j = 0; j < padded; j += LANES)
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            float *place = scores + j + i * HALF;
            const __m256 weight = exp8(_mm256_sub_ps(_mm256_loadu_ps(place), _mm256_set1_ps(top)));
            part[i] = _mm256_add_ps(part[i], weight);
            _mm256_storeu_ps(place, weight);
        }
    _mm256_storeu_ps((float *)&sum, part[0]), _mm256_storeu_ps((float *)&sum + HALF, part[1]);
#else
    for (int j = 0; j < padded; j += LANES) {
        f32x16 weight = exp16(load(scores + j) - splat(top));
        sum = sum + weight;
        store(scores + j, weight);
    }
#endif
    return sum16(sum);
}

/* Bounds scores smoothly; the scores behind them, up to a whole vector, may change. */
INLINE void cap_scores(float *scores, int count, float cap) {
    for (int j = 0; j < count; j += LANES) store(scores + j, soft_cap16(load(scores + j), cap));
}

/* Scores of the visible text, for all queries. */
static void score_text(const Head *head, const Query *queries, int count) {
    int first = queries->first, base = queries->base;
    for (int q = 1; q < count; q++) {
        first = fewer(first, queries[q].first);
        base = base < queries[q].base ? queries[q].base : base;
    }
    const int last = (base + LANES - 1) / LANES;
    for (int block = first / LANES, wide; block < last; block += wide) {
        wide = last - block >= WIDE ? WIDE : 1;
        const float *keys = floats_of_keys(head, block, wide);
        for (int q = 0; q < count; q += MOST_QUERIES)
            score_tile(keys, head->head_dim, queries + q, block * LANES,
                       fewer(count - q, MOST_QUERIES), wide);
    }
}

/* Adds the values of the text: those that all queries see are loaded once for several queries. */
static void average_text(const Head *head, const Query *queries, int count) {
    int from = queries->first, to = queries->base;
    for (int q = 1; q < count; q++) {
        from = from < queries[q].first ? queries[q].first : from;
        to = fewer(to, queries[q].base);
    }
    if (from > to) from = to;
    for (int q = 0; q < count; q++)
        if (queries[q].first < from) add_slots(head, queries + q, queries[q].first, from, 1);
    add_slots(head, queries, from, to, count);
    for (int q = 0; q < count; q++) {
        const int begin = to < queries[q].first ? queries[q].first : to;
        if (begin < queries[q].base) add_slots(head, queries + q, begin, queries[q].base, 1);
    }
}

/* The attention of up to SLAB queries of one key head. */
static void attend(const Head *head, const Query *queries, int count) {
    float shares[SLAB];
    score_text(head, queries, count);
    for (int i = 0; i < count; i++) {
        const Query *q = queries + i;
        const int text = q->base - q->first;
        for (int j = 0; j < q->extras; j++)
            q->scores[text + j] = score_slot(head, q->query, q->extra[j] + head->shift);
        if (head->cap) cap_scores(q->scores, text + q->extras, head->cap);
        shares[i] = 1.0f / soften(q->scores, text + q->extras);
        memset(q->out, 0, sizeof(float) * head->head_dim);
    }
    average_text(head, queries, count);
    for (int i = 0; i < count; i++) {
        const Query *q = queries + i;
        for (int j = 0; j < q->extras; j++)
            add_slot(head, *q, q->extra[j] + head->shift, q->base - q->first + j);
        for (int d = 0; d < head->head_dim; d++) q->out[d] *= shares[i];
    }
}

#endif
