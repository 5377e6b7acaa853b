/* A draft head: one layer that reads hidden states of its target and drafts its next tokens. */
#ifndef OUTRIDER_HEAD_H
#define OUTRIDER_HEAD_H

#include "choose.h"
#include "hints.h"
#include "model.h"

enum { AS_IT_IS = 0, BY_RECUR = 1, BY_FUSE = 2 };

/* A matrix with `outputs` 0 is absent. */
typedef struct {
    const Model *layer;       /* its one layer; its vocabulary is the target's, and its head has a
                               * row for each draft token */
    const Model *target;      /* whose embeddings are read, and rows of whose head score hints */
    Matrix fuse;              /* the target's states to the stream */
    Matrix recur;             /* the output of the row before to the stream (BY_RECUR) */
    Matrix up, gate, down;    /* mix token and state in a wider space before they are fused */
    Matrix token, hint;       /* normed embeddings to the stream */
    const float *state_norm;  /* [states, state_width], or NULL: states are not normed */
    const float *fused_norm;  /* [states * state_width], of all states together, or NULL */
    const float *token_norm;  /* [hidden] of embeddings, or NULL */
    const float *hidden_norm; /* [hidden] of the input of the stream, or NULL */
    const float *bias;        /* [hidden], added to the stream, or NULL */
    const float *levels;      /* [4, hidden], added to the stream by the level of the hint, or NULL */
    const int32_t *ids;       /* [drafts] ids of draft tokens, ascending */
    const int32_t *place;     /* [vocab of the target] their places in `ids`, or -1 */
    int32_t states, state_width;
    int32_t joins;         /* whether attention reads the embedding beside the stream */
    int32_t continues;     /* what becomes of an output of a row that is the input of the next one */
    int32_t normed_stream; /* whether the stream begins with its normed input */
    int32_t normed_output; /* whether outputs are normed */
} DraftHead;

/* What the rows of a batch read beside their tokens. */
typedef struct {
    const float *const *inputs; /* [rows] the target's states, or the output of the row before */
    int32_t continued;          /* whether they are outputs */
    const int32_t *hints, *levels; /* [rows], or NULL */
} HeadRows;

/* Reads the batch, as `outrider_forward`. Writes the logits of the draft vocabulary of the rows
 * that are wanted, and their outputs [wanted, hidden]. */
int32_t outrider_head(const DraftHead *head, Pool *pool, int32_t threads, const Batch *batch,
                      const HeadRows *rows, float *outputs);

/* Ends a chain behind the first token whose chance, with all tokens before it, is too small. */
typedef struct {
    const float *chances; /* [CHANCES] that a token is right, by the class of its probability */
    float least;          /* the smallest chance after which the chain goes on */
    int32_t *classes;     /* [depth] of the tokens: their probability at the current temperature (1 if
                           * it is 0), in CHANCES equal parts */
} Promise;

enum { CHANCES = 32 };

/* Reads `batch`, one text with its last row requested, then drafts a chain as `outrider_write`
 * does. `before` is the token before the last one of the batch. The hint of a row, if there are
 * hints, is drafted as well if it is no draft token. `first` [hidden] is the output of the last row
 * of the batch. `promise` may be NULL. */
int32_t outrider_head_write(const DraftHead *head, Pool *pool, int32_t threads,
                            int32_t threads_for_one, const Batch *batch, const HeadRows *rows,
                            const Hints *hints, int32_t before,
                            const Sampler *sampler, uint64_t index, int32_t depth,
                            const int32_t *end_ids, int32_t num_end_ids,
                            const Promise *promise, float *first,
                            int32_t *written, int32_t *trouble);

#endif
