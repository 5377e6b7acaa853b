/* Moves rows of a cache to other slots of the same cache or of another one of the same kind. */
#include "cached.h"

/* Copies `count` numbers of one slot between blocks of 16 slots. */
static void copy_lane(char *to, const char *from, int count, int size) {
    for (int i = 0; i < count; i++, to += LANES * size, from += LANES * size) {
        if (size == 4) memcpy(to, from, 4);
        else if (size == 2) memcpy(to, from, 2);
        else *to = *from;
    }
}

static void copy_key(const Head *to, const Head *from, int start, int source) {
    const int D = to->head_dim, size = to->size, groups = to->groups;
    const int64_t there = start / LANES, here = source / LANES;
    copy_lane(to->keys + (there * D * LANES + start % LANES) * size,
              from->keys + (here * D * LANES + source % LANES) * size, D, size);
    if (to->kind == INT8)
        copy_lane((char *)(to->key_scales + there * groups * LANES + start % LANES),
                  (const char *)(from->key_scales + here * groups * LANES + source % LANES), groups, 4);
}

/* Copies values of `count` slots, which may overlap. */
static void move_values(const Head *to, const Head *from, int64_t start, int64_t source,
                        int64_t count) {
    const int64_t bytes = (int64_t)to->head_dim * to->size;
    memmove(to->values + start * bytes, from->values + source * bytes, count * bytes);
    if (to->kind == INT8)
        memmove(to->value_scales + start * to->groups, from->value_scales + source * to->groups,
                sizeof(float) * to->groups * count);
}

/* Copies rows `source .. source + count` of `from` to rows `start ..` of `to`, in each of `planes`
 * pairs of layer and key head. In one cache the two ranges may overlap: rows that move down are
 * moved first to last, others last to first. */
void outrider_move(const Cache *to, const Cache *from, int32_t planes, int32_t head_dim,
                   int32_t start, int32_t source, int32_t count) {
    for (int64_t plane = 0; plane < planes; plane++) {
        const Head there = head_of(to, plane, head_dim, NULL);
        const Head here = head_of(from, plane, head_dim, NULL);
        const int to_row = start + there.shift, from_row = source + here.shift;
        for (int i = 0; i < count; i++) {
            const int row = start < source ? i : count - 1 - i;
            copy_key(&there, &here, to_row + row, from_row + row);
        }
        move_values(&there, &here, to_row, from_row, count);
    }
}

/* Rotates the keys of the first `count` slots of a plane by angles `cos` and `sin` [count, head_dim],
 * the sine signed. */
void outrider_turn(const Cache *cache, int64_t plane, int32_t head_dim, int32_t count,
                   const float *cos, const float *sin) {
    const Head head = head_of(cache, plane, head_dim, NULL);
    const int half = head_dim / 2;
    float key[head_dim], turned[head_dim];
    for (int64_t slot = 0; slot < count; slot++, cos += head_dim, sin += head_dim) {
        read_key(&head, slot, key);
        for (int i = 0; i < half; i++) {
            turned[i] = key[i] * cos[i] + key[i + half] * sin[i];
            turned[i + half] = key[i + half] * cos[i + half] + key[i] * sin[i + half];
        }
        write_key(&head, slot, turned);
    }
}

/* Copies rows of another cache to the rows from `start[plane]` on of each plane, one after the
 * other: `rows[ends[plane - 1] .. ends[plane] - 1]`, which are slots of the plane itself. */
void outrider_gather(const Cache *to, const Cache *from, int32_t planes, int32_t head_dim,
                     const int32_t *start, const int32_t *rows, const int64_t *ends) {
    int64_t i = 0;
    for (int64_t plane = 0; plane < planes; plane++) {
        const Head there = head_of(to, plane, head_dim, NULL);
        const Head here = head_of(from, plane, head_dim, NULL);
        for (int row = start[plane]; i < ends[plane]; i++, row++) {
            copy_key(&there, &here, row, rows[i]);
            move_values(&there, &here, row, rows[i], 1);
        }
    }
}
