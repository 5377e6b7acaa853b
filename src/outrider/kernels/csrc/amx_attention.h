/* Attention by tiles; see `amx_attention.c`. */
#ifndef OUTRIDER_AMX_ATTENTION_H
#define OUTRIDER_AMX_ATTENTION_H

#include "amx.h"
#include "attention.h"

enum { PLACES_A_PASS = 256 }; /* places whose keys or values are packed at one time */
enum { WIDEST_HEAD = 512 };

/* Whether attention over a cache is computed by tiles: for any number of rows, or for none. */
INLINE int attends_by_tiles(const Cache *cache, int head_dim) {
    return amx_in_use && cache->kind == BFLOAT16 && head_dim % 32 == 0 && head_dim <= WIDEST_HEAD;
}

/* Floats of memory that one thread needs for it. */
INLINE int64_t amx_attention_floats(int head_dim) {
    return (int64_t)head_dim * (2 * WIDE_SLAB + PLACES_A_PASS / 2);
}

#pragma GCC visibility push(hidden)
/* The attention of up to WIDE_SLAB queries of one key head. `scores` are [WIDE_SLAB, stride]. */
void amx_attend(const Head *head, const Query *queries, int count, float *scores, int64_t stride,
                void *memory);
#pragma GCC visibility pop

#endif
