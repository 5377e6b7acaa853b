/* The choice of a token: argmax of warped score plus Gumbel noise.
 *
 * The same choice as in `sampling/sampler.py`, for the plain warps. Exponentials are computed for
 * sixteen tokens at a time, and top-p selects by buckets instead of sorting. For every token only
 * the hash of the noise is computed; logarithms only for the few tokens that can still win. */
#include "choose.h"

#include <math.h>

#include "vectors.h"

/* -- noise: the finaliser of SplitMix64 (Steele, Lea and Flood 2014), as in noise.py ---------- */

static const uint64_t GOLDEN = 0x9E3779B97F4A7C15ull;

INLINE uint64_t finalise(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

/* Purpose CHOICE, tier and sibling are 0: all tiers share this stream. */
static uint64_t choice_key(const Sampler *sampler, uint64_t index) {
    const uint64_t parts[] = {sampler->sample, index, 0, 0, 0};
    uint64_t key = finalise(sampler->seed);
    for (int i = 0; i < 5; i++) key = finalise(key + GOLDEN + parts[i]);
    return key;
}

INLINE double uniform(uint64_t key, int32_t token) {
    return ((double)(finalise(key + GOLDEN * (uint64_t)token) >> 12) + 0.5) * 0x1p-52;
}

/* -- warps ----------------------------------------------------------------------------------- */

static void exchange(float *a, float *b) {
    float kept = *a;
    *a = *b, *b = kept;
}

/* The k-th largest of `values` (k from 1), which are reordered. */
static float kth_largest(float *values, int count, int k) {
    int low = 0, high = count - 1, wanted = k - 1;
    while (low < high) {
        exchange(values + low + (high - low) / 2, values + high);
        int edge = low;
        for (int i = low; i < high; i++)
            if (values[i] > values[high]) exchange(values + i, values + edge++);
        exchange(values + edge, values + high);
        /* skip values equal to the pivot: many of them would make this quadratic */
        int last = edge;
        for (int i = edge + 1; i <= high; i++)
            if (values[i] == values[edge]) exchange(values + i, values + ++last);
        if (wanted < edge) high = edge - 1;
        else if (wanted > last) low = last + 1;
        else return values[edge];
    }
    return values[low];
}

/* Better: larger weight, or the lower id if weights are equal. */
static int better(const float *weight, int32_t a, int32_t b) {
    return weight[a] > weight[b] || (weight[a] == weight[b] && a < b);
}

static void sink_down(int32_t *heap, int count, int at, const float *weight) {
    for (int child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && better(weight, heap[child + 1], heap[child])) child++;
        if (!better(weight, heap[child], heap[at])) return;
        int32_t kept = heap[at];
        heap[at] = heap[child], heap[child] = kept;
    }
}

/* Weights between 1 and 2^-32 fall into buckets by exponent and three bits of mantissa. */
enum { BUCKETS = 256, BUCKET_SHIFT = 20, BUCKET_OF_ONE = 0x3F800000 >> BUCKET_SHIFT };

INLINE int bucket_of(float weight) {
    uint32_t bits;
    memcpy(&bits, &weight, 4);
    int bucket = BUCKET_OF_ONE - (int)(bits >> BUCKET_SHIFT);
    return bucket < 0 ? 0 : bucket < BUCKETS ? bucket : BUCKETS - 1;
}

/* Moves the smallest set of best tokens with a share of at least `p` to the front of `ids`; returns
 * its size. Whole buckets are taken, heaviest first; only the bucket in which the share is reached
 * is sorted. */
static int nucleus(int32_t *ids, int count, const float *weight, double p) {
    double mass[BUCKETS] = {0}, total = 0, before = 0;
    for (int i = 0; i < count; i++) mass[bucket_of(weight[ids[i]])] += weight[ids[i]];
    for (int b = 0; b < BUCKETS; b++) total += mass[b];
    int edge = 0;
    while (edge < BUCKETS - 1 && before + mass[edge] < p * total) before += mass[edge++];
    /* three parts: taken, undecided, left out */
    int taken = 0, end = 0;
    for (int i = 0; i < count; i++) {
        int32_t id = ids[i];
        int bucket = bucket_of(weight[id]);
        if (bucket > edge) continue;
        ids[end++] = id;
        if (bucket < edge) ids[end - 1] = ids[taken], ids[taken++] = id;
    }
    int32_t *heap = ids + taken;
    int left = end - taken, size = left;
    for (int at = left / 2 - 1; at >= 0; at--) sink_down(heap, left, at, weight);
    while (left > 0 && (taken + size - left == 0 || before < p * total)) {
        int32_t best = heap[0];
        before += weight[best];
        left--;
        heap[0] = heap[left], heap[left] = best;
        sink_down(heap, left, 0, weight);
    }
    memmove(heap, heap + left, sizeof(int32_t) * (size - left));
    return taken + size - left;
}

/* -- choice ---------------------------------------------------------------------------------- */

/* The best score, or NaN if any score is NaN or +inf. */
static float inspect(const float *scores, int count) {
    f32x16 best = splat(-INFINITY);
    i32x16 odd = (i32x16){0};
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        f32x16 x = load(scores + i);
        best = max16(x, best);
        odd |= (x != x) | (x == splat(INFINITY));
    }
    float top = highest16(best);
    int bad = 0;
    for (int lane = 0; lane < LANES; lane++) bad |= odd[lane];
    for (; i < count; i++) {
        bad |= scores[i] != scores[i] || scores[i] == INFINITY;
        top = scores[i] > top ? scores[i] : top;
    }
    return bad ? NAN : top;
}

static int32_t first_equal(const float *scores, int count, float value) {
    int32_t i = 0;
    while (i < count && scores[i] != value) i++;
    return i;
}

/* argmax of score + noise over `ids`. A token beats `best` only if -log u < e^(score - best). Since
 * 1 - u < -log u, the cheaper test of 1 - u rejects most tokens. */
static int32_t draw(const int32_t *ids, int count, const float *scores, const float *weight,
                    float top, const int32_t *names, uint64_t key) {
    int32_t chosen = ids[0];
    double best = -INFINITY, hurdle = 0; /* hurdle: slightly below e^(best - top) */
    for (int i = 0; i < count; i++) {
        double u = uniform(key, names ? names[ids[i]] : ids[i]);
        if ((1 - u) * hurdle > weight[ids[i]]) continue;
        double noisy = (double)scores[ids[i]] - log(-log(u));
        if (noisy > best || (noisy == best && ids[i] < chosen)) {
            best = noisy, chosen = ids[i];
            hurdle = exp(best - top) * 0.9999;
        }
    }
    return chosen;
}

/* Bans tokens of `desk`, a row of scores. */
static void ban(const Sampler *sampler, int32_t vocab, const int32_t *names, float *desk) {
    for (int b = 0; b < sampler->num_banned; b++) {
        const int32_t banned = sampler->banned[b];
        if (!names && banned < vocab) desk[banned] = -INFINITY;
        for (int i = 0; names && i < vocab; i++)
            if (names[i] == banned) desk[i] = -INFINITY;
    }
}

int32_t outrider_choose(const float *scores, int32_t vocab, const Sampler *sampler, uint64_t index,
                        const uint8_t *allowed, const int32_t *names, float *desk) {
    float top = inspect(scores, vocab);
    if (top != top) return NOT_FINITE;
    if (allowed || sampler->num_banned) {
        if (allowed)
            for (int i = 0; i < vocab; i++) desk[i] = allowed[i] ? scores[i] : -INFINITY;
        else
            memcpy(desk, scores, sizeof(float) * vocab);
        ban(sampler, vocab, names, desk);
        scores = desk;
        top = inspect(scores, vocab);
    }
    if (top == -INFINITY) return NOTHING_ALLOWED;
    /* a temperature so low that scores overflow counts as 0 */
    if (sampler->temperature == 0 || !isfinite(top / sampler->temperature))
        return first_equal(scores, vocab, top);
    float *scaled = desk, *weight = desk + vocab + 16;
    int32_t *ids = (int32_t *)(weight + vocab + 16);
    top /= sampler->temperature;
    int i = 0;
    for (; i + LANES <= vocab; i += LANES) {
        f32x16 x = load(scores + i) / splat(sampler->temperature);
        store(scaled + i, x);
        store(weight + i, exp16(x - splat(top)));
    }
    for (; i < vocab; i++) {
        scaled[i] = scores[i] / sampler->temperature;
        weight[i] = exp16(splat(scaled[i] - top))[0];
    }
    float floor = -INFINITY;
    if (sampler->top_k > 0 && sampler->top_k < vocab) {
        memcpy(ids, scaled, sizeof(float) * vocab);
        floor = kth_largest((float *)ids, vocab, sampler->top_k);
    }
    int count = 0;
    for (i = 0; i < vocab; i++) {
        ids[count] = i;
        count += scaled[i] >= floor && scaled[i] > -INFINITY;
    }
    if (sampler->top_p < 1) count = nucleus(ids, count, weight, sampler->top_p);
    if (sampler->min_p > 0) {
        int left = 0;
        for (i = 0; i < count; i++) {
            ids[left] = ids[i];
            left += scaled[ids[i]] >= (float)(top + log(sampler->min_p));
        }
        count = left;
    }
    if (count == 1) return ids[0];
    return draw(ids, count, scaled, weight, top, names, choice_key(sampler, index));
}
