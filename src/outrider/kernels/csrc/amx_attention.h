/* Attention by tiles; see `amx_attention.c`. */
#ifndef OUTRIDER_AMX_ATTENTION_H
#define OUTRIDER_AMX_ATTENTION_H

#include "amx.h"
#include "attention.h"

enum { WIDE_SLAB = 192 }; /* most queries that pass over the keys together, a multiple of 16 */
enum { SPAN = 256 };      /* places whose weights are computed at one time */
enum { WIDEST_HEAD = 512 };

/* Whether attention over a cache is computed by tiles: for any number of rows, or for none. */
INLINE int attends_by_tiles(const Cache *cache, int head_dim) {
    return amx_in_use && cache->kind == BFLOAT16 && head_dim % 32 == 0 && head_dim <= WIDEST_HEAD;
}

/* Floats of memory that one thread needs for it. */
INLINE int64_t amx_attention_floats(int head_dim) {
    return (int64_t)head_dim * (2 * WIDE_SLAB + SPAN / 2) + WIDE_SLAB * LANES;
}

/* Floats for the scores of one query; not a multiple of a page, since rows would share lines of the
 * cache. `drafted` is the largest number of drafted rows that a row sees. */
INLINE int64_t amx_scores_stride(int64_t drafted) {
    return SPAN + LANES + (drafted ? (drafted + 127) / 32 * 32 : 0);
}

#pragma GCC visibility push(hidden)
/* The attention of up to WIDE_SLAB queries of one key head. `scores` are [WIDE_SLAB,
 * stride]. */
void amx_attend(const Head *head, const Query *queries, int count, float *scores, int64_t stride,
                void *memory);
#pragma GCC visibility pop

#endif
