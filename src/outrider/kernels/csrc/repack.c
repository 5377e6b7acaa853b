/* Rearranges blocks of GGUF files into panels. The integers and factors are those of the file.
 *
 * A row of a file is a series of blocks of 32 or 256 weights. Blocks at the same place of 32 rows
 * are unpacked to one byte a weight, and then written group by group as two panels. */
#include "matrix.h"
#include "pool.h"

#include <stdatomic.h>

enum { Q4_0 = 2, Q4_1 = 3, Q8_0 = 8, Q4_K = 12, Q6_K = 14 }; /* numbers of GGUF files */
enum { ROWS = 2 * LANES, MOST = 256 };

/* One block of one row. */
typedef struct {
    uint32_t quads[MOST / 4]; /* four integers each */
    uint8_t fine[MOST / LANES], fine_minimums[MOST / GROUP];
    uint16_t scale, minimum;
} Block;

typedef struct {
    const Matrix *matrix;
    const uint8_t *const *rows; /* of the panels of the first pair, and so on; NULL: zeros */
    int32_t format, first, last;
    atomic_int bad; /* whether a factor is NaN or infinite */
} Work;

static int weights_of(int format) { return format == Q4_K || format == Q6_K ? 256 : 32; }

static int bytes_of(int format) {
    return format == Q4_0 ? 18 : format == Q4_1 ? 20 : format == Q8_0 ? 34 : format == Q4_K ? 144 : 210;
}

static uint16_t brief_at(const uint8_t *place) {
    uint16_t brief;
    memcpy(&brief, place, 2);
    return brief;
}

/* `size` bytes as their low halves, then their high halves. */
static void halves(const uint8_t *from, int size, uint8_t *to) {
    for (int i = 0; i < size; i++) to[i] = from[i] & 15;
    for (int i = 0; i < size; i++) to[size + i] = from[i] >> 4;
}

/* Eight scales and eight minimums of six bits. */
static void fine_scales(const uint8_t *packed, uint8_t *scales, uint8_t *minimums) {
    for (int i = 0; i < 4; i++) {
        scales[i] = packed[i] & 63, minimums[i] = packed[4 + i] & 63;
        scales[4 + i] = (packed[8 + i] & 15) | packed[i] >> 6 << 4;
        minimums[4 + i] = packed[8 + i] >> 4 | packed[4 + i] >> 6 << 4;
    }
}

static void unpack_q6_k(const uint8_t *from, uint8_t *quants) {
    for (int half = 0; half < 2; half++, quants += 128) {
        const uint8_t *high = from + 128 + half * 32;
        halves(from + half * 64, 64, quants);
        for (int run = 0; run < 4; run++)
            for (int i = 0; i < 32; i++) quants[run * 32 + i] |= (high[i] >> 2 * run & 3) << 4;
    }
}

static void unpack(int format, const uint8_t *from, Block *to) {
    uint8_t *quants = (uint8_t *)to->quads;
    to->scale = brief_at(format == Q6_K ? from + 208 : from);
    to->minimum = format == Q4_1 || format == Q4_K ? brief_at(from + 2) : 0;
    switch (format) {
    case Q4_0: halves(from + 2, 16, quants); break;
    case Q4_1: halves(from + 4, 16, quants); break;
    case Q8_0:
        for (int i = 0; i < GROUP; i++) quants[i] = from[2 + i] ^ (OFFSET ? 0x80 : 0);
        break;
    case Q4_K:
        fine_scales(from + 4, to->fine, to->fine_minimums);
        for (int i = 0; i < 4; i++) halves(from + 16 + 32 * i, 32, quants + 64 * i);
        break;
    case Q6_K:
        unpack_q6_k(from, quants);
        memcpy(to->fine, from + 192, 16);
        break;
    }
}

/* The integers of group `g` of the blocks, as `kind` stores them; returns the place after them. */
static uint8_t *put_integers(int kind, const Block *blocks, int g, uint8_t *place) {
    uint32_t *out = (uint32_t *)place;
    for (int q = 0; q < QUADS_A_GROUP; q++) {
        const int at = g * QUADS_A_GROUP + q;
        for (int i = 0; i < LANES; i++) {
            const uint32_t first = blocks[i].quads[at], second = blocks[LANES + i].quads[at];
            if (kind == GROUPS8) out[i] = first, out[LANES + i] = second;
            else out[i] = (first & 0x0f0f0f0f) | (second & 0x0f0f0f0f) << 4;
        }
        out += kind == GROUPS8 ? 2 * LANES : LANES;
        if (kind != GROUPS6 || q % 2 == 0) continue;
        for (int i = 0; i < LANES; i++) {
            const uint32_t *first = blocks[i].quads + at, *second = blocks[LANES + i].quads + at;
            out[i] = (first[-1] >> 4 & 0x03030303) | (second[-1] >> 2 & 0x0c0c0c0c) |
                     (first[0] & 0x30303030) | (second[0] << 2 & 0xc0c0c0c0);
        }
        out += LANES;
    }
    return (uint8_t *)out;
}

/* The factors that lie after the integers of each group. */
static void put_factors(int kind, const Block *blocks, int g, uint8_t *place) {
    uint16_t *briefs = (uint16_t *)place;
    for (int i = 0; i < ROWS; i++) {
        if (kind == GROUPS4_FINE)
            place[i] = blocks[i].fine[g], place[ROWS + i] = blocks[i].fine_minimums[g];
        else if (kind == GROUPS6)
            place[i] = blocks[i].fine[2 * g], place[ROWS + i] = blocks[i].fine[2 * g + 1];
        else {
            briefs[i] = blocks[i].scale;
            if (kind == GROUPS4_MIN) briefs[ROWS + i] = blocks[i].minimum;
        }
    }
}

static int is_bad(uint16_t brief) { return (brief & 0x7c00) == 0x7c00; }

/* Chunks are pairs of panels. */
static void run_pair(void *argument, int step, int chunk, int member) {
    (void)step, (void)member;
    Work *work = argument;
    const Matrix *w = work->matrix;
    const int size = weights_of(work->format), groups = size / GROUP, pair = work->first + chunk;
    const int64_t nbytes = bytes_of(work->format);
    uint8_t *place = (uint8_t *)w->data + pair * 2 * panel_bytes(w);
    Block blocks[ROWS];
    int bad = 0;
    memset(blocks, 0, sizeof blocks);
    for (int g = 0; g < w->groups; g += groups) {
        for (int i = 0; i < ROWS; i++) {
            const uint8_t *row = work->rows[(int64_t)chunk * ROWS + i];
            if (row) unpack(work->format, row + g / groups * nbytes, blocks + i);
            bad |= is_bad(blocks[i].scale) | is_bad(blocks[i].minimum);
        }
        for (int i = 0; i < groups; i++, place += group_bytes(w->kind)) {
            uint8_t *end = put_integers(w->kind, blocks, i, place);
            put_factors(w->kind, blocks, i, end);
        }
        if (!w->spans) continue;
        uint16_t *spans = (uint16_t *)span_of(w, pair, g);
        for (int i = 0; i < ROWS; i++) {
            spans[i] = blocks[i].scale;
            if (w->kind == GROUPS4_FINE) spans[ROWS + i] = blocks[i].minimum;
        }
    }
    if (bad) atomic_store(&work->bad, 1);
}

static int count_pairs(const void *argument, int step) {
    (void)step;
    const Work *work = argument;
    return work->last - work->first;
}

/* Fills pairs of panels `first .. last` of a matrix from 32 rows each. Returns whether a factor is
 * NaN or infinite. */
int32_t outrider_repack(const Matrix *matrix, int32_t format, const uint8_t *const *rows,
                        int32_t first, int32_t last, Pool *pool, int32_t threads) {
    Work work = {matrix, rows, format, first, last, 0};
    pool_run(pool, threads, &(Task){&work, 1, count_pairs, run_pair});
    return atomic_load(&work.bad);
}
