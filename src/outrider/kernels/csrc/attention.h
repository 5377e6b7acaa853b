/* Attention of one row over its own visible keys, in the order of its text.
 *
   * Scores, sums and averages are computed over keys in path order, so a drafted row has the same
 * bits as the undrafted row, regardless of siblings between them in memory. */
#ifndef OUTRIDER_ATTENTION_H
#define OUTRIDER_ATTENTION_H

#include <math.h>

#include "model.h"

enum { MOST_QUERIES = 4 }; /* query heads that share one pass over the keys */

typedef struct {
    const float *keys, *values; /* of one layer and key head */
    int head_dim;
    int first, base; /* visible text slots: first .. base - 1 */
    const int32_t *extra;
    int extras;
} Reach;

/* Scores of B blocks of 16 keys, for Q queries; `scores[q]` of query q. */
INLINE void score_blocks(const float *blocks, int head_dim, const float *queries, int Q, int B,
                         f32x16 scores[][4]) {
    const int64_t size = (int64_t)head_dim * LANES;
    for (int q = 0; q < Q; q++)
        for (int i = 0; i < B; i++) scores[q][i] = (f32x16){0};
    for (int d = 0; d < head_dim; d++) {
        f32x16 key[4];
#pragma GCC unroll 4
        for (int i = 0; i < B; i++) key[i] = load(blocks + i * size + d * LANES);
#pragma GCC unroll 4
        for (int q = 0; q < Q; q++) {
            f32x16 x = splat(queries[q * head_dim + d]);
#pragma GCC unroll 4
            for (int i = 0; i < B; i++) scores[q][i] = fma16(x, key[i], scores[q][i]);
        }
    }
}

/* Scores of the visible text, from `first` on, written to `out`, `stride` apart for each query. */
INLINE void score_text(const Reach *reach, const float *queries, int Q, float *out,
                       int64_t stride) {
    const int D = reach->head_dim, last = (reach->base + LANES - 1) / LANES;
    for (int block = reach->first / LANES, count; block < last; block += count) {
        const float *blocks = reach->keys + (int64_t)block * D * LANES;
        f32x16 found[MOST_QUERIES][4];
        count = last - block >= 4 ? 4 : 1;
        if (count == 4) score_blocks(blocks, D, queries, Q, 4, found);
        else score_blocks(blocks, D, queries, Q, 1, found);
        int from = block * LANES - reach->first; /* negative if the window begins inside it */
        int skip = from < 0 ? -from : 0;
        int end = reach->base - block * LANES < count * LANES ? reach->base - block * LANES
                                                              : count * LANES;
        for (int q = 0; q < Q; q++)
            memcpy(out + q * stride + from + skip, (float *)found[q] + skip,
                   sizeof(float) * (end - skip));
    }
}

/* The score of one key, with the operations of `score_blocks`. */
INLINE float score_slot(const float *keys, int head_dim, const float *query, int slot) {
    const float *block = keys + (int64_t)(slot / LANES) * head_dim * LANES;
    f32x16 sum = (f32x16){0};
    for (int d = 0; d < head_dim; d++) sum = fma16(splat(query[d]), load(block + d * LANES), sum);
    return sum[slot % LANES];
}

/* Converts scores to weights in place; returns their sum, by which they are not yet divided. */
INLINE float soften(float *scores, int count) {
    int padded = (count + LANES - 1) / LANES * LANES;
    for (int j = count; j < padded; j++) scores[j] = -INFINITY;
    f32x16 best = splat(-INFINITY);
    for (int j = 0; j < padded; j += LANES) best = max16(best, load(scores + j));
    f32x16 top = splat(highest16(best)), sum = (f32x16){0};
    for (int j = 0; j < padded; j += LANES) {
        f32x16 weight = exp16(load(scores + j) - top);
        sum = sum + weight;
        store(scores + j, weight);
    }
    return sum16(sum);
}

/* out[q] = sum over keys of weight * value; head_dim in steps of 64 (tail: of 16). */
INLINE void average(const Reach *reach, const float *weights, int64_t stride, int Q, int W, int d,
                    float *out) {
    f32x16 sums[MOST_QUERIES][4];
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < W; v++) sums[q][v] = (f32x16){0};
    int text = reach->base - reach->first;
    const int D = reach->head_dim;
    const float *value = reach->values + (int64_t)reach->first * D + d;
    for (int j = 0; j < text + reach->extras; j++) {
        const float *place = j < text ? value + (int64_t)j * D
                                      : reach->values + (int64_t)reach->extra[j - text] * D + d;
#pragma GCC unroll 4
        for (int v = 0; v < W; v++) {
            f32x16 x = load(place + v * LANES);
#pragma GCC unroll 4
            for (int q = 0; q < Q; q++)
                sums[q][v] = fma16(splat(weights[q * stride + j]), x, sums[q][v]);
        }
    }
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < W; v++) store(out + q * D + d + v * LANES, sums[q][v]);
}

INLINE void average_scalar(const Reach *reach, const float *weights, int64_t stride, int Q, int d,
                           float *out) {
    int text = reach->base - reach->first;
    const int D = reach->head_dim;
    for (int q = 0; q < Q; q++) {
        float sum = 0;
        for (int j = 0; j < text + reach->extras; j++) {
            int slot = j < text ? reach->first + j : reach->extra[j - text];
            sum += weights[q * stride + j] * reach->values[(int64_t)slot * D + d];
        }
        out[q * D + d] = sum;
    }
}

INLINE void attend_group(const Reach *reach, const float *queries, int Q, float *scores,
                         int64_t stride, float *out) {
    const int D = reach->head_dim, text = reach->base - reach->first;
    score_text(reach, queries, Q, scores, stride);
    float sums[MOST_QUERIES];
    for (int q = 0; q < Q; q++) {
        float *own = scores + q * stride;
        for (int j = 0; j < reach->extras; j++)
            own[text + j] = score_slot(reach->keys, D, queries + q * D, reach->extra[j]);
        sums[q] = soften(own, text + reach->extras);
    }
    int d = 0;
    for (; d + 64 <= D; d += 64) average(reach, scores, stride, Q, 4, d, out);
    for (; d + LANES <= D; d += LANES) average(reach, scores, stride, Q, 1, d, out);
    for (; d < D; d++) average_scalar(reach, scores, stride, Q, d, out);
    for (int q = 0; q < Q; q++) {
        const float share = 1.0f / sums[q];
        for (int i = 0; i < D; i++) out[q * D + i] *= share;
    }
}

/* Query heads of one key head, in groups that fit into the registers. */
static void attend(const Reach *reach, const float *queries, int heads, float *scores,
                   int64_t stride, float *out) {
    const int D = reach->head_dim;
    for (int q = 0; q < heads;) {
        if (heads - q >= 4) {
            attend_group(reach, queries + q * D, 4, scores, stride, out + q * D);
            q += 4;
        } else if (heads - q >= 2) {
            attend_group(reach, queries + q * D, 2, scores, stride, out + q * D);
            q += 2;
        } else {
            attend_group(reach, queries + q * D, 1, scores, stride, out + q * D);
            q += 1;
        }
    }
}

#endif
