/* Writes a chain of tokens in one call: read a row, choose, read the chosen token, ... */
#include "choose.h"
#include "next.h"

#include <stdlib.h>

/* Reads `batch`, one text with its last row requested, then up to `depth` - 1 of the tokens that it
 * writes. The last token written is not read. The chain ends early after an end token, and after a
 * token that was chosen while no token had the probability `batch->confidence`. Returns the number
 * of tokens in `written`; `*trouble` is the error that ended the chain, or 0. */
int32_t outrider_write(const Model *model, Pool *pool, int32_t threads, int32_t threads_for_one,
                       const Batch *batch, const Sampler *sampler, uint64_t index, int32_t depth,
                       const int32_t *end_ids, int32_t num_end_ids, int32_t *written,
                       int32_t *trouble) {
    const int32_t behind = batch->extra_start[batch->rows];
    const int32_t scores = batch->names ? model->head.outputs : model->vocab;
    float *desk = malloc(sizeof(float) * (3 * (int64_t)scores + 64));
    int32_t *path = malloc(sizeof(int32_t) * (behind + depth + 1));
    int32_t count = 0;
    *trouble = 1;
    if (desk && path) {
        Next next = after(batch, path);
        const Batch one = batch_of(batch, &next);
        *trouble = outrider_forward(model, pool, threads, batch);
        while (!*trouble) {
            const int32_t found = outrider_choose(batch->logits, scores, sampler, index + count, NULL,
                                                  batch->names, desk);
            if (found < 0) {
                *trouble = found;
                break;
            }
            next.token = batch->names ? batch->names[found] : found;
            written[count++] = next.token;
            if (count == depth || ends(next.token, end_ids, num_end_ids)) break;
            if (batch->confidence > 0 &&
                !is_sure(batch->logits, scores, sampler->temperature, batch->confidence))
                break;
            advance(&next);
            *trouble = outrider_forward(model, pool, threads_for_one, &one);
        }
    }
    free(desk);
    free(path);
    return count;
}
