/* Successors of tokens in one text: what followed the last token, or the last two (hints.py). */
#ifndef OUTRIDER_HINTS_H
#define OUTRIDER_HINTS_H

#include <stdint.h>

/* Open addressing; the key 0 is free. A pair of tokens is a key, as is a token alone. */
typedef struct {
    uint64_t *keys;
    int32_t *values;
    uint64_t mask;             /* the number of places less one, a power of two */
    int64_t used;              /* at most half of them */
    const int32_t *successors; /* [vocab] of each token in other texts, or -1 */
} Hints;

enum { NO_HINT = 0, OF_OTHERS = 1, AFTER_ONE = 2, AFTER_TWO = 3 };

/* The hint for what follows `token`, which follows `before`; `*level` is its level. */
int32_t outrider_hint(const Hints *hints, int32_t before, int32_t token, int32_t *level);

/* Appends `count` tokens, which follow `before` and `last` (-1: none), and writes the hint after
 * each of them. `found` and `levels` may be NULL. */
void outrider_hints_add(Hints *hints, int32_t before, int32_t last, const int32_t *tokens,
                        int32_t count, int32_t *found, int32_t *levels);

#endif
