/* Writes a chain of tokens in one call: read a row, choose, read the chosen token, ... */
#include "choose.h"
#include "model.h"

#include <math.h>
#include <stdlib.h>

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

/* Reads `batch`, one text with its last row requested, then up to `depth` - 1 of the tokens that it
 * writes. The last token written is not read. The chain ends early after an end token, and after a
 * token that was chosen while no token had the probability `batch->confidence`. Returns the number
 * of tokens in `written`; `*trouble` is the error that ended the chain, or 0. */
int32_t outrider_write(const Model *model, Pool *pool, int32_t threads, int32_t threads_for_one,
                       const Batch *batch, const Sampler *sampler, uint64_t index, int32_t depth,
                       const int32_t *end_ids, int32_t num_end_ids, int32_t *written,
                       int32_t *trouble) {
    static const int32_t zero = 0;
    const int32_t behind = batch->extra_start[batch->rows];
    float *desk = malloc(sizeof(float) * (3 * (int64_t)model->vocab + 64));
    int32_t *path = malloc(sizeof(int32_t) * (behind + depth + 1));
    int32_t count = 0;
    *trouble = 1;
    if (desk && path) {
        Next next = after(batch, path);
        Batch one = *batch;
        one.rows = 1, one.given = NULL, one.want = &zero, one.states = NULL, one.keep = NULL;
        one.tokens = &next.token, one.positions = &next.position, one.slots = &next.slot;
        one.base = &next.base, one.cache = &next.cache;
        one.extra_start = next.bounds, one.extra = path;
        *trouble = outrider_forward(model, pool, threads, batch);
        while (!*trouble) {
            next.token = outrider_choose(batch->logits, model->vocab, sampler, index + count, NULL, desk);
            if (next.token < 0) {
                *trouble = next.token;
                break;
            }
            written[count++] = next.token;
            if (count == depth || ends(next.token, end_ids, num_end_ids)) break;
            if (batch->confidence > 0 &&
                !is_sure(batch->logits, model->vocab, sampler->temperature, batch->confidence))
                break;
            advance(&next);
            *trouble = outrider_forward(model, pool, threads_for_one, &one);
        }
    }
    free(desk);
    free(path);
    return count;
}
