/* The best tokens of rows of scores, best first, for memories of rows.
 *
  * A row is cut into groups: the scores of a stretch in the same vector element. The k-th best
 * maximum of the groups is a lower bound: at least k scores reach it, so no score below it is among
 * the best k, and most groups are never read again. */
#include <math.h>

#include "vectors.h"

enum { MOST = 64, STRETCHES = 256 };

typedef struct {
    float score[MOST];
    int32_t id[MOST];
    int count, most;
} Best;

/* Keeps the best `most`; equal scores are ordered by id. */
INLINE void offer(Best *best, float score, int32_t id) {
    int last = best->most - 1;
    if (best->count > last &&
        (score < best->score[last] || (score == best->score[last] && id > best->id[last])))
        return;
    int place = best->count <= last ? best->count++ : last;
    for (; place > 0; place--) {
        float before = best->score[place - 1];
        if (score < before || (score == before && id > best->id[place - 1])) break;
        best->score[place] = before, best->id[place] = best->id[place - 1];
    }
    best->score[place] = score, best->id[place] = id;
}

/* The maximum of each vector element of scores[from .. to); sets bits in `nan` for NaN. */
INLINE f32x16 highest(const float *scores, int from, int to, i32x16 *nan) {
    f32x16 high = splat(-INFINITY);
    int i = from;
    for (; i + LANES <= to; i += LANES) {
        f32x16 x = load(scores + i);
        *nan |= x != x;
        high = max16(x, high);
    }
    if (i < to) {
        f32x16 x = splat(-INFINITY);
        memcpy(&x, scores + i, sizeof(float) * (to - i));
        *nan |= x != x;
        high = max16(x, high);
    }
    return high;
}

/* log of the sum of e^score. */
static float log_total(const float *scores, int vocab, float top) {
    f32x16 total = splat(0.0f);
    int i = 0;
    for (; i + LANES <= vocab; i += LANES) total += exp16(load(scores + i) - splat(top));
    float sum = sum16(total);
    for (; i < vocab; i++) sum += exp16(splat(scores[i] - top))[0];
    return top + logf(sum);
}

/* Fill ids and values [rows, k], best first, and totals [rows] (log of the sum of exponentials)
 * unless it is null. A row with NaN or +inf, or with nothing above -inf, gets ids of -1. */
void outrider_topk(const float *logits, int64_t stride, int32_t rows, int32_t vocab, int32_t k,
                   int32_t *ids, float *values, float *totals) {
    int width = LANES * 16;
    while ((vocab + width - 1) / width > STRETCHES) width *= 2;
    float high[STRETCHES * LANES];
    for (int row = 0; row < rows; row++, ids += k, values += k) {
        const float *scores = logits + row * stride;
        Best floor = {.most = k}, best = {.most = k};
        i32x16 nan = {0};
        int groups = 0;
        for (int i = 0; i < vocab; i += width, groups += LANES)
            store(high + groups, highest(scores, i, i + width < vocab ? i + width : vocab, &nan));
        for (int i = 0; i < groups; i++)
            if (floor.count < k || high[i] > floor.score[k - 1]) offer(&floor, high[i], i);
        int bad = !isfinite(floor.score[0]);
        for (int i = 0; i < LANES; i++) bad |= nan[i];
        float least = floor.count == k ? floor.score[k - 1] : -INFINITY;
        for (int i = 0; i < groups && !bad; i++) {
            if (high[i] < least) continue;
            int begin = i / LANES * width, end = begin + width < vocab ? begin + width : vocab;
            for (int j = begin + i % LANES; j < end; j += LANES)
                if (scores[j] >= least) offer(&best, scores[j], j);
        }
        for (int i = 0; i < k; i++) {
            ids[i] = i < best.count ? best.id[i] : -1;
            values[i] = i < best.count ? best.score[i] : -INFINITY;
        }
        if (totals) totals[row] = bad ? 0.0f : log_total(scores, vocab, best.score[0]);
    }
}
