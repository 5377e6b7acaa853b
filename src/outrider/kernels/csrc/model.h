/* The structures that Python fills and C reads; `layout.py` mirrors every field. */
#ifndef OUTRIDER_MODEL_H
#define OUTRIDER_MODEL_H

#include "matmul.h"
#include "pool.h"

enum { SILU = 0, GELU = 1, GELU_TANH = 2, RELU = 3 };
enum { ATTENTION = 1, MLP = 2 }; /* parts of a layer */

/* The experts of a layer; see `experts.h`. */
typedef struct {
    int32_t count, chosen; /* all, and how many a row goes through */
    int32_t normalized;    /* whether the weights of the chosen ones are divided by their sum */
    Matrix router;         /* FLOAT32, an output for each expert */
    const Matrix *gate_up, *down; /* [count] */
} Experts;

typedef struct {
    Matrix qkv[3]; /* queries, keys and values: side by side, or in matrices of several kinds */
    Matrix output, gate_up, down;
    int32_t num_qkv;
    const float *input_norm, *mlp_norm; /* of the rows that attention and MLP read, or NULL */
    const float *output_norm, *down_norm; /* of their results before they are added, or NULL */
    const float *query_norm, *key_norm; /* [head_dim], or of all heads (`whole_norms`), or NULL */
    int32_t window;                     /* positions visible to a row, itself included; 0: all */
    int32_t rotary;      /* 0: none; 1: by `cos` and `sin` of the batch; 2: by the local ones */
    int32_t whole_norms; /* queries, and keys, are normed over all heads together */
    int32_t place;       /* its number in the caches */
    int32_t parts; /* which of its halves are run */
    const Experts *experts; /* instead of `gate_up` and `down`, or NULL */
} Layer;

typedef struct {
    int32_t num_layers, hidden, inner, heads, kv_heads, head_dim, vocab;
    int32_t activation;
    float eps;
    float embed_scale, rows_scale; /* factors of embeddings; of all rows of the first layer */
    float residual_scale;          /* factor of results before they are added */
    float attention_scale, attention_cap; /* factor of the scores; their soft cap or 0 */
    float logits_divisor, logits_cap;     /* of the logits; their soft cap or 0 */
    Matrix embed; /* an output for each token; often the head's own */
    const float *norm; /* of the rows that the head reads, or NULL */
    const Layer *layers; /* those that are run, at least one */
    Matrix head;
} Model;

/* Keys are [layer, kv head, slot / 16, head_dim, 16], values [layer, kv head, slot, head_dim]: the
 * scores of 16 keys are computed side by side, without a sum over vector elements. */
typedef struct {
    void *keys, *values;
    float *key_scales, *value_scales; /* INT8: [layer, kv head, slot / 16, head_dim / 32, 16] and
                                       * [layer, kv head, slot, head_dim / 32] */
    int64_t capacity; /* slots; a multiple of 64 */
    int32_t kind;     /* FLOAT32, BFLOAT16, or INT8 with a scale for each 32 numbers of a head */
    /* Caches that keep only some rows of the text, other ones for each layer and key head; or NULLs.
     * Such a plane begins at slot `first`, a multiple of 64, and slot s of the text lies in its slot
     * s + shift, for all slots behind those that it has given up. */
    const int64_t *first;
    const int32_t *shift; /* not above 0; 0 in layers with windows */
} Cache;

/* Positions of the tokens of a text: given[s] for slot s, and s + shift from slot `count` on. */
typedef struct {
    const int32_t *given; /* ascending */
    int32_t count, shift;
} Places;

/* `rows` tokens to read, each with its place in the text and in memory. Slots 0 .. base[i] - 1 are
 * visible to row i, then its `extra` slots, an ancestor path. */
typedef struct {
    int32_t rows, wanted;
    const int32_t *tokens, *positions, *slots, *cache, *base;
    const int32_t *extra_start; /* [rows + 1] */
    const int32_t *extra;       /* slots of draft ancestors, root first, the row itself last */
    const float *const *given;  /* [rows] embeddings to read instead of the token, or NULLs */
    const float *const *joined; /* [rows] what attention reads before the row itself, or NULL */
    const int32_t *want;        /* [wanted] rows to return */
    const Cache *caches;
    const Places *places;   /* one for each cache; NULL: positions equal slots */
    const float *cos, *sin; /* [positions, head_dim], the sine signed */
    const float *local_cos, *local_sin; /* the same for layers with their own rotation, or NULL */
    float *logits;          /* [wanted, logits_stride] */
    float *hidden;          /* [wanted, hidden] or NULL */
    const int32_t *names;   /* [outputs of the head] their ids; NULL: an output is a token */
    int64_t logits_stride;  /* at least the head's panels * 16 */
    float *states;           /* [any, wanted, hidden] or NULL: the residual stream before layers */
    const int32_t *state_at; /* [num_layers + 1] the place of each in `states`, or -1; the last one
                              * is the stream after all layers, before the final norm */
    float *const *keep;      /* [rows] for each row, where its states are kept, or NULL; or NULL */
    const int32_t *keep_at;  /* [num_layers + 2] the place of each state in a row of `keep`, or -1:
                              * the stream before each layer, after all of them, and normed */
    float *const *asked;     /* [rows] for each row, where its queries are written, [layer, head,
                              * head_dim], as attention reads them, or NULL; or NULL */
    float confidence;        /* a chain ends where no token has this probability */
} Batch;

/* Reads the batch. Returns 0; 1 if memory is exhausted; 2 for a token outside the vocabulary. */
int32_t outrider_forward(const Model *model, Pool *pool, int32_t threads, const Batch *batch);

#endif
