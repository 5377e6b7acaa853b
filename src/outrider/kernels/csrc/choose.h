#ifndef OUTRIDER_CHOOSE_H
#define OUTRIDER_CHOOSE_H

#include <stdint.h>

enum { NOT_FINITE = -1, NOTHING_ALLOWED = -2 };

/* The sampling settings of one request; seed and sample select the noise. */
typedef struct {
    float temperature; /* 0 chooses the best token */
    int32_t top_k;     /* 0 keeps all */
    double top_p, min_p;
    uint64_t seed, sample;
    const int32_t *banned; /* ids that are never chosen; ids beyond the vocabulary are ignored */
    int32_t num_banned;
} Sampler;

/* The token at generated index `index`, or one of the negative numbers above. `allowed` holds a
 * byte for each token, 0 for those that a grammar forbids; NULL allows all.
 * `names` holds the id of each score, whose place is returned; NULL: scores are numbered by ids.
 * `desk` holds 3 * vocab + 64 floats; at temperature 0 it is used for bans and `allowed` only. */
int32_t outrider_choose(const float *scores, int32_t vocab, const Sampler *sampler, uint64_t index,
                        const uint8_t *allowed, const int32_t *names, float *desk);

#endif
