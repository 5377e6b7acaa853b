/* The row after the last one of a batch, for chains that are written row by row. */
#ifndef OUTRIDER_NEXT_H
#define OUTRIDER_NEXT_H

#include <math.h>
#include <string.h>

#include "model.h"

static int ends(int32_t token, const int32_t *end_ids, int32_t count) {
    for (int i = 0; i < count; i++)
        if (end_ids[i] == token) return 1;
    return 0;
}

/* The place of the next row. In a plain text, all slots up to its own are visible to it; below the
 * branches of a draft, the text and the `path` of its ancestors. */
typedef struct {
    int32_t token, position, slot, base, cache;
    int32_t bounds[2];
    int32_t *path;
} Next;

static Next after(const Batch *batch, int32_t *path) {
    const int32_t last = batch->rows - 1, start = batch->extra_start[last];
    Next next = {0, batch->positions[last], batch->slots[last], batch->base[last],
                 batch->cache[last], {0, batch->extra_start[last + 1] - start}, path};
    memcpy(path, batch->extra + start, sizeof(int32_t) * next.bounds[1]);
    return next;
}

static void advance(Next *next) {
    next->slot++;
    next->position++;
    if (next->bounds[1]) next->path[next->bounds[1]++] = next->slot;
    else next->base++;
}

/* A batch of the row `next`, which stays where it is. */
static Batch batch_of(const Batch *batch, const Next *next) {
    static const int32_t zero = 0;
    Batch one = *batch;
    one.rows = 1, one.given = NULL, one.want = &zero, one.states = NULL, one.keep = NULL;
    one.asked = NULL;
    one.tokens = &next->token, one.positions = &next->position, one.slots = &next->slot;
    one.base = &next->base, one.cache = &next->cache;
    one.extra_start = next->bounds, one.extra = next->path;
    return one;
}

/* Whether any token has at least this probability, at the current temperature (1 if it is 0) and
 * before the other warps. */
static int is_sure(const float *scores, int32_t vocab, float temperature, float confidence) {
    const float factor = temperature > 0 ? 1.0f / temperature : 1.0f;
    float best = scores[0], sum = 0;
    for (int i = 1; i < vocab; i++) best = scores[i] > best ? scores[i] : best;
    for (int i = 0; i < vocab; i++) { /* tokens 16 below the best are negligible */
        float below = (scores[i] - best) * factor;
        if (below > -16.0f) sum += expf(below);
    }
    return sum * confidence <= 1.0f;
}

#endif
