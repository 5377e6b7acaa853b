/* Moves rows of a cache to other slots of the same cache or of another one. */
#include <string.h>

#include "model.h"

/* Moves one key; its numbers are `LANES` apart in memory. */
INLINE void move_key(float *to, const float *from, int32_t head_dim, int32_t start,
                     int32_t source) {
    to += (int64_t)(start / LANES) * head_dim * LANES + start % LANES;
    from += (int64_t)(source / LANES) * head_dim * LANES + source % LANES;
    for (int d = 0; d < head_dim; d++) to[d * LANES] = from[d * LANES];
}

/* Copies rows `source .. source + count` of `from` to rows `start ..` of `to`, in each of `planes`
 * pairs of layer and key head. In one cache the two ranges may overlap: rows that move down are
 * moved first to last, others last to first. */
void outrider_move(const Cache *to, const Cache *from, int32_t planes, int32_t head_dim,
                   int32_t start, int32_t source, int32_t count) {
    for (int64_t plane = 0; plane < planes; plane++) {
        const int64_t there = plane * to->capacity * head_dim;
        const int64_t here = plane * from->capacity * head_dim;
        for (int i = 0; i < count; i++) {
            int row = start < source ? i : count - 1 - i;
            move_key(to->keys + there, from->keys + here, head_dim, start + row, source + row);
        }
        memmove(to->values + there + (int64_t)start * head_dim,
                from->values + here + (int64_t)source * head_dim,
                sizeof(float) * (int64_t)count * head_dim);
    }
}
