#include "hints.h"

#include <stddef.h>

static uint64_t key_of(int32_t before, int32_t token) {
    return (uint64_t)(uint32_t)(before + 1) << 32 | (uint32_t)(token + 1);
}

/* The place of a key, or the free place where it belongs. */
static uint64_t place_of(const Hints *hints, uint64_t key) {
    uint64_t place = (key * 0x9E3779B97F4A7C15ull) >> 20 & hints->mask;
    while (hints->keys[place] && hints->keys[place] != key) place = (place + 1) & hints->mask;
    return place;
}

static void set(Hints *hints, uint64_t key, int32_t value) {
    const uint64_t place = place_of(hints, key);
    hints->used += !hints->keys[place];
    hints->keys[place] = key, hints->values[place] = value;
}

int32_t outrider_hint(const Hints *hints, int32_t before, int32_t token, int32_t *level) {
    uint64_t place = place_of(hints, key_of(before, token));
    if (before >= 0 && hints->keys[place]) return *level = AFTER_TWO, hints->values[place];
    place = place_of(hints, key_of(-1, token));
    if (hints->keys[place]) return *level = AFTER_ONE, hints->values[place];
    *level = hints->successors[token] < 0 ? NO_HINT : OF_OTHERS;
    return *level ? hints->successors[token] : 0;
}

void outrider_hints_add(Hints *hints, int32_t before, int32_t last, const int32_t *tokens,
                        int32_t count, int32_t *found, int32_t *levels) {
    for (int32_t i = 0; i < count; i++) {
        if (last >= 0) set(hints, key_of(-1, last), tokens[i]);
        if (before >= 0) set(hints, key_of(before, last), tokens[i]);
        before = last, last = tokens[i];
        if (found) found[i] = outrider_hint(hints, before, last, levels + i);
    }
}
