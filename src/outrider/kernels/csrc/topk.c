/* The best tokens of rows of scores, best first, for memories of rows.
 *
 * A row is read in blocks. The k-th best of the blocks' maxima is a floor: at least k scores are as
 * good, so nothing below it belongs to the best k, and most blocks are never looked into. */
#include <math.h>

#include "vectors.h"

enum { MOST = 64, BLOCKS = 1024 };

typedef struct {
    float score[MOST];
    int32_t id[MOST];
    int count, most;
} Best;

/* Keep the best `most`; of equal scores the one that came first stays in front. */
static void offer(Best *best, float score, int32_t id) {
    if (best->count == best->most && !(score > best->score[best->most - 1])) return;
    int place = best->count < best->most ? best->count++ : best->most - 1;
    for (; place > 0 && score > best->score[place - 1]; place--) {
        best->score[place] = best->score[place - 1];
        best->id[place] = best->id[place - 1];
    }
    best->score[place] = score, best->id[place] = id;
}

/* The maximum of scores[from .. to); `nan` gets bits where one is NaN. */
static float highest(const float *scores, int from, int to, i32x16 *nan) {
    f32x16 high = splat(-INFINITY);
    int i = from;
    for (; i + LANES <= to; i += LANES) {
        f32x16 x = load(scores + i);
        *nan |= x != x;
        high = max16(x, high);
    }
    float best = highest16(high);
    for (; i < to; i++) {
        if (scores[i] != scores[i]) *nan |= -1;
        best = scores[i] > best ? scores[i] : best;
    }
    return best;
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
    int width = LANES * 4;
    while ((vocab + width - 1) / width > BLOCKS) width *= 2;
    float high[BLOCKS];
    for (int row = 0; row < rows; row++, ids += k, values += k) {
        const float *scores = logits + row * stride;
        Best floor = {.most = k}, best = {.most = k};
        i32x16 nan = {0};
        for (int i = 0, block = 0; i < vocab; i += width, block++) {
            high[block] = highest(scores, i, i + width < vocab ? i + width : vocab, &nan);
            offer(&floor, high[block], block);
        }
        int bad = !isfinite(floor.score[0]);
        for (int i = 0; i < LANES; i++) bad |= nan[i];
        float least = floor.count == k ? floor.score[k - 1] : -INFINITY;
        for (int i = 0, block = 0; i < vocab && !bad; i += width, block++) {
            if (high[block] < least) continue;
            int end = i + width < vocab ? i + width : vocab;
            for (int j = i; j < end; j++)
                if (scores[j] >= least) offer(&best, scores[j], j);
        }
        for (int i = 0; i < k; i++) {
            ids[i] = i < best.count ? best.id[i] : -1;
            values[i] = i < best.count ? best.score[i] : -INFINITY;
        }
        if (totals) totals[row] = bad ? 0.0f : log_total(scores, vocab, best.score[0]);
    }
}
