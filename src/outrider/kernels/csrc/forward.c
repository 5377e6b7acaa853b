/* A whole forward in one call: a program of steps, each cut into chunks that threads share. */
#include "model.h"

#include <stdlib.h>

#include "amx_attention.h"
#include "experts.h"

/* Rows between two steps. `quants`, `scales` and `sums` hold the input of the next matrix of
 * integers. */
typedef struct {
    float *stream;   /* [rows, hidden], the residual stream */
    float *normed;   /* [rows, hidden] */
    float *result;   /* [rows, stream_stride], of attention or MLP, where it is not added at once */
    float *packed;   /* [rows, packed_stride], queries, keys, values side by side */
    float *attended; /* [rows, heads * head_dim] */
    float *inner;    /* [rows, inner_stride] */
    float *scores;   /* [members, scores_size] */
    float *floats;   /* [members, floats_stride], keys or values */
    int8_t *quants;
    float *scales;
    int32_t *sums;
    int64_t stream_stride, packed_stride, inner_stride, scores_stride, tiled_stride, floats_stride;
    int64_t scores_size;
    int slab; /* queries that pass over the keys of a text together */
    Mixture mixture;
} Desk;

typedef struct {
    const Model *model;
    const Batch *batch;
    Desk desk;
    int threads;
} Work;

static int64_t padded(const Matrix *w) { return width_of(w); }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static float *take(char **place, int64_t floats) {
    float *taken = (float *)*place;
    *place += (floats * 4 + 63) / 64 * 64;
    return taken;
}

/* Whether results are normed or scaled before they are added to the stream. */
static int adds_later(const Model *m) {
    return m->residual_scale != 1.0f || m->layers->output_norm || m->layers->down_norm;
}

/* The groups of the widest input. */
static int64_t most_groups(const Model *m) {
    int64_t groups = m->head.groups;
    for (int i = 0; i < m->num_layers; i++) {
        const Layer *layer = m->layers + i;
        groups = larger(groups, larger(layer->qkv->groups, layer->gate_up.groups));
        groups = larger(groups, larger(layer->output.groups, layer->down.groups));
        if (layer->experts)
            groups = larger(groups, larger(layer->experts->gate_up->groups,
                                           layer->experts->down->groups));
    }
    return groups;
}

/* Lays out what layers with experts need for `rows` rows; returns the number of pairs. */
static int64_t lay_out_experts(Mixture *mixture, const Model *m, int64_t rows, char **place) {
    const Experts *e = NULL; /* all are of one shape */
    for (int i = 0; i < m->num_layers && !e; i++) e = m->layers[i].experts;
    *mixture = (Mixture){0};
    if (!e) return 0;
    const int64_t pairs = rows * e->chosen;
    mixture->logits_stride = width_of(&e->router);
    mixture->inner_stride = width_of(e->gate_up) / 2;
    mixture->result_stride = width_of(e->down);
    mixture->logits = take(place, rows * mixture->logits_stride);
    mixture->weights = take(place, pairs);
    mixture->chosen = (int32_t *)take(place, pairs);
    mixture->place = (int32_t *)take(place, pairs);
    mixture->row = (int32_t *)take(place, pairs);
    mixture->owner = (int32_t *)take(place, pairs);
    mixture->first = (int32_t *)take(place, e->count + 1);
    mixture->touched = (int32_t *)take(place, e->count);
    mixture->num_touched = (int32_t *)take(place, 1);
    mixture->values = take(place, pairs * larger(e->gate_up->inputs, mixture->result_stride));
    mixture->inner = take(place, pairs * mixture->inner_stride);
    return pairs;
}

/* Whether tiles compute the attention of a row. */
static int by_tiles(const Model *m, const Batch *b, int row) {
    return b->caches && attends_by_tiles(b->caches + b->cache[row], m->head_dim);
}

static int64_t lay_out(Desk *desk, const Model *m, const Batch *b, int members, char *memory) {
    const int64_t rows = larger(b->rows, b->wanted), attended = (int64_t)m->heads * m->head_dim;
    const Layer *layer = m->layers; /* all are of one shape */
    const int64_t groups = most_groups(m);
    int64_t longest = 0, drafted = 0;
    desk->slab = SLAB;
    for (int i = 0; i < b->rows; i++) {
        if (by_tiles(m, b, i)) desk->slab = WIDE_SLAB;
        longest = larger(longest, b->base[i]);
        drafted = larger(drafted, b->extra_start[i + 1] - b->extra_start[i]);
    }
    desk->stream_stride = m->num_layers ? padded(&layer->output) : m->hidden;
    desk->packed_stride = 0;
    for (int i = 0; m->num_layers && i < layer->num_qkv; i++)
        desk->packed_stride += padded(layer->qkv + i);
    desk->inner_stride = 0;
    for (int i = 0; i < m->num_layers; i++) /* 0 in layers with experts */
        desk->inner_stride = larger(desk->inner_stride, padded(&m->layers[i].gate_up) / 2);
    desk->scores_stride = (longest + drafted + 191) / 64 * 64; /* 16 before, up to 64 after a text */
    desk->tiled_stride = amx_scores_stride(drafted);
    desk->scores_size = SLAB * desk->scores_stride;
    if (desk->slab == WIDE_SLAB)
        desk->scores_size = larger(desk->scores_size, WIDE_SLAB * desk->tiled_stride);
    desk->floats_stride = (int64_t)SLOTS_AS_FLOATS * m->head_dim;
    if (desk->slab == WIDE_SLAB)
        desk->floats_stride = larger(desk->floats_stride, amx_attention_floats(m->head_dim));
    char *place = memory;
    desk->stream = take(&place, rows * desk->stream_stride);
    desk->normed = take(&place, rows * larger(m->hidden, m->num_layers ? layer->qkv->inputs : 0));
    desk->result = take(&place, adds_later(m) ? rows * desk->stream_stride : 0);
    desk->packed = take(&place, rows * desk->packed_stride);
    desk->attended = take(&place, rows * attended);
    desk->inner = take(&place, rows * desk->inner_stride);
    desk->scores = take(&place, members * desk->scores_size);
    desk->floats = take(&place, members * desk->floats_stride);
    const int64_t forms = larger(rows, lay_out_experts(&desk->mixture, m, b->rows, &place));
    desk->scales = take(&place, forms * groups);
    desk->sums = (int32_t *)take(&place, forms * groups * 2);
    desk->quants = (int8_t *)take(&place, forms * groups * (GROUP / 4));
    return place - memory;
}

/* -- rows ------------------------------------------------------------------------------------ */

/* One row, as matrix `w` reads it. */
static void hand_over(const Work *work, const Matrix *w, const float *x, int64_t row) {
    const Desk *desk = &work->desk;
    write_form(w, x, row, (Forms){desk->quants, desk->scales, desk->sums});
}

static Rows rows_of(const Work *work, const float *values) {
    return (Rows){values, work->desk.quants, work->desk.scales, work->desk.sums};
}

/* -- steps ----------------------------------------------------------------------------------- */

enum { /* the steps of one layer, in order */
    INPUT_NORM,
    QKV,
    REMEMBER,
    ATTEND,
    OUTPUT_ROWS,
    OUTPUT,
    ADD_OUTPUT,
    MLP_NORM,
    SORT, /* with experts only */
    GATHER,
    GATE_UP,
    DOWN_ROWS,
    DOWN,
    COMBINE,
    ADD_DOWN,
    STEPS_OF_A_LAYER
};
enum { KEEP_ROWS, ANSWER_ROWS, ANSWER, STEPS_OF_THE_END };

enum { ROWS_A_CHUNK = 4, PANELS_A_CHUNK = 8, CHUNKS_A_THREAD = 6 };

static int pieces(int count, int grain) { return (count + grain - 1) / grain; }

static void piece(int count, int grain, int chunk, int *first, int *last) {
    *first = chunk * grain;
    *last = *first + grain < count ? *first + grain : count;
}

/* Panels per chunk: few, so that threads end together, but enough for the widest tile. */
static int grain_of(const Work *work, const Matrix *w) {
    if (work->threads == 1) return w->panels;
    int even = w->panels / (work->threads * CHUNKS_A_THREAD) / PANELS_A_CHUNK * PANELS_A_CHUNK;
    return even > PANELS_A_CHUNK ? even : PANELS_A_CHUNK;
}

static void product(const Work *work, const Matrix *w, const float *values, int rows, Sink sink,
                    int chunk) {
    int first, last;
    piece(w->panels, grain_of(work, w), chunk, &first, &last);
    multiply(w, rows_of(work, values), rows, &sink, first, last);
}

/* Chunks of the first `count` matrices of queries, keys and values. */
static int qkv_chunks(const Work *work, const Layer *layer, int count) {
    int chunks = 0;
    for (int i = 0; i < count; i++)
        chunks += pieces(layer->qkv[i].panels, grain_of(work, layer->qkv + i));
    return chunks;
}

static void product_qkv(const Work *work, const Layer *layer, Sink sink, int chunk) {
    int part = 0;
    for (; chunk >= qkv_chunks(work, layer, part + 1); part++) sink.out += padded(layer->qkv + part);
    product(work, layer->qkv + part, work->desk.normed, work->batch->rows, sink,
            chunk - qkv_chunks(work, layer, part));
}

/* A matrix of queries, keys or values that reads integers, if there is one. */
static const Matrix *any_integers(const Layer *layer) {
    int part = 0;
    while (part + 1 < layer->num_qkv && !reads_integers(layer->qkv + part)) part++;
    return layer->qkv + part;
}

static void embed(const Work *work, int row) {
    const Model *m = work->model;
    const Batch *b = work->batch;
    float *out = work->desk.stream + row * work->desk.stream_stride;
    if (b->given && b->given[row]) memcpy(out, b->given[row], sizeof(float) * m->hidden);
    else {
        unpack_row(&m->embed, b->tokens[row], out);
        scale_row(out, m->hidden, m->embed_scale);
    }
    scale_row(out, m->hidden, m->rows_scale);
}

/* Writes the rows that `next` reads; `joined` holds what comes before each row, or is NULL. */
static void norm_rows(const Work *work, int chunk, const float *weight, const Matrix *next,
                      const float *const *joined) {
    const Model *m = work->model;
    const Desk *desk = &work->desk;
    const int64_t before = joined ? next->inputs - m->hidden : 0;
    int first, last;
    piece(work->batch->rows, ROWS_A_CHUNK, chunk, &first, &last);
    for (int row = first; row < last; row++) {
        const float *stream = desk->stream + row * desk->stream_stride;
        float *normed = desk->normed + row * (before + m->hidden);
        if (joined) memcpy(normed, joined[row], sizeof(float) * before);
        if (weight) rms_norm(stream, weight, m->eps, m->hidden, normed + before);
        else memcpy(normed + before, stream, sizeof(float) * m->hidden);
        hand_over(work, next, normed, row);
    }
}

static void add_rows(const Work *work, int chunk, const float *weight) {
    const Model *m = work->model;
    const Desk *desk = &work->desk;
    int first, last;
    piece(work->batch->rows, ROWS_A_CHUNK, chunk, &first, &last);
    for (int row = first; row < last; row++)
        add_row(desk->result + row * desk->stream_stride, weight, m->eps, m->residual_scale,
                m->hidden, desk->normed + (int64_t)row * m->hidden,
                desk->stream + row * desk->stream_stride);
}

/* Whether the stream before layer `index` is kept; `num_layers` is the end of the last layer. */
static int is_kept(const Batch *b, int index) { return b->states && b->state_at[index] >= 0; }

/* Whether a state of each row is kept in memory of its text (`Batch.keep_at`). */
static int keeps_rows(const Batch *b, int index) { return b->keep && b->keep_at[index] >= 0; }

/* Whether a state that stands after all layers is kept. */
static int keeps_end(const Model *m, const Batch *b) {
    return keeps_rows(b, m->num_layers) || keeps_rows(b, m->num_layers + 1);
}

/* Keeps the stream of one row as its state `index`. */
static void keep_row(const Work *work, int index, int row) {
    const int64_t hidden = work->model->hidden;
    const Batch *b = work->batch;
    if (!keeps_rows(b, index) || !b->keep[row]) return;
    float *to = b->keep[row] + b->keep_at[index] * hidden;
    const float *stream = work->desk.stream + row * work->desk.stream_stride;
    if (index > work->model->num_layers)
        rms_norm(stream, work->model->norm, work->model->eps, hidden, to);
    else memcpy(to, stream, sizeof(float) * hidden);
}

static void keep_rows(const Work *work, int chunk) {
    const int last_layer = work->model->num_layers;
    int first, last;
    piece(work->batch->rows, ROWS_A_CHUNK, chunk, &first, &last);
    for (int row = first; row < last; row++) {
        keep_row(work, last_layer, row);
        keep_row(work, last_layer + 1, row);
    }
}

static void keep_state(const Work *work, int index, int wanted) {
    const int64_t hidden = work->model->hidden;
    const Batch *b = work->batch;
    memcpy(b->states + ((int64_t)b->state_at[index] * b->wanted + wanted) * hidden,
           work->desk.stream + b->want[wanted] * work->desk.stream_stride, sizeof(float) * hidden);
}

/* The input rows of a layer: embeddings for the first layer. Watched rows are copied. */
static void enter(const Work *work, int index, int chunk) {
    const Batch *b = work->batch;
    int first, last;
    piece(b->rows, ROWS_A_CHUNK, chunk, &first, &last);
    for (int row = first; row < last && !index; row++) embed(work, row);
    for (int row = first; row < last; row++) keep_row(work, index, row);
    if (!is_kept(b, index)) return;
    for (int i = 0; i < b->wanted; i++)
        if (first <= b->want[i] && b->want[i] < last) keep_state(work, index, i);
}

/* Norms and rotates a head in place, then multiplies it: queries by the factor of the scores. */
static void turn(const Model *m, const Batch *b, const Layer *layer, int row, const float *norm,
                 float *head, float factor) {
    const int D = m->head_dim, half = D / 2;
    if (norm && !layer->whole_norms) rms_norm(head, norm, m->eps, D, head);
    if (layer->rotary) {
        const int64_t at = (int64_t)b->positions[row] * D;
        const float *cos = (layer->rotary == 1 ? b->cos : b->local_cos) + at;
        const float *sin = (layer->rotary == 1 ? b->sin : b->local_sin) + at;
        for (int i = 0; i < half; i++) {
            float x = head[i], y = head[i + half];
            head[i] = x * cos[i] + y * sin[i];
            head[i + half] = y * cos[i + half] + x * sin[i + half];
        }
    }
    for (int i = 0; i < D; i++) head[i] *= factor;
}

/* Keys and values of key head `head` of the row's text; `member` of the threads reads them. */
static Head head_at(const Work *work, const Layer *layer, int row, int head, int member) {
    const Model *m = work->model;
    Head found = head_of(&work->batch->caches[work->batch->cache[row]],
                         (int64_t)layer->place * m->kv_heads + head, m->head_dim,
                         work->desk.floats + member * work->desk.floats_stride);
    found.cap = m->attention_cap;
    return found;
}

/* Writes keys and values of one row and key head to their slot. */
static void remember(const Work *work, const Layer *layer, int row, int head) {
    const Model *m = work->model;
    const int D = m->head_dim;
    float *packed = work->desk.packed + row * work->desk.packed_stride;
    float *key = packed + (int64_t)(m->heads + head) * D;
    const float *value = packed + (int64_t)(m->heads + m->kv_heads + head) * D;
    turn(m, work->batch, layer, row, layer->key_norm, key, 1.0f);
    const Head to = head_at(work, layer, row, head, 0);
    write_slot(&to, work->batch->slots[row], key, value);
}

/* The first slot of a text whose position is at least `position`. */
static int slot_from(const Places *places, int position) {
    if (!places) return position;
    int low = 0, high = places->count, beyond = position - places->shift;
    if (beyond > places->count) return beyond;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (places->given[middle] < position) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* The slots visible to a row. The extra slots end at the position of the row itself. */
static void set_reach(const Work *work, const Layer *layer, int row, Query *query) {
    const Batch *b = work->batch;
    int start = b->extra_start[row], extras = b->extra_start[row + 1] - start;
    int first = 0, trim = 0;
    if (layer->window) {
        const Places *places = b->places ? b->places + b->cache[row] : NULL;
        int open = slot_from(places, b->positions[row] - layer->window + 1);
        first = open < 0 ? 0 : open < b->base[row] ? open : b->base[row];
        if (extras > layer->window) trim = extras - layer->window, extras = layer->window;
    }
    query->first = first, query->base = b->base[row];
    query->extra = b->extra + start + trim, query->extras = extras, query->trim = trim;
}

/* Query head `member` of a key head, for one row; the query is turned in place. */
static Query query_of(const Work *work, const Layer *layer, int row, int head, int member) {
    const Model *m = work->model;
    const Desk *desk = &work->desk;
    const int64_t own = (int64_t)head * (m->heads / m->kv_heads) + member;
    float *query = desk->packed + row * desk->packed_stride + own * m->head_dim;
    turn(m, work->batch, layer, row, layer->query_norm, query, m->attention_scale);
    const Batch *b = work->batch;
    if (b->asked && b->asked[row])
        memcpy(b->asked[row] + ((int64_t)layer->place * m->heads + own) * m->head_dim, query,
               sizeof(float) * m->head_dim);
    Query made = {.query = query, .out = desk->attended + (row * m->heads + own) * m->head_dim};
    set_reach(work, layer, row, &made);
    made.base += shift_of(b->caches + b->cache[row], (int64_t)layer->place * m->kv_heads + head);
    return made;
}

/* Norms all heads of the queries of a row together, and all heads of its keys. */
static void norm_whole(const Work *work, const Layer *layer, int row) {
    const Model *m = work->model;
    float *queries = work->desk.packed + row * work->desk.packed_stride;
    float *keys = queries + (int64_t)m->heads * m->head_dim;
    rms_norm(queries, layer->query_norm, m->eps, m->heads * m->head_dim, queries);
    rms_norm(keys, layer->key_norm, m->eps, m->kv_heads * m->head_dim, keys);
}

static void remember_rows(const Work *work, const Layer *layer, int chunk) {
    int first, last;
    piece(work->batch->rows, ROWS_A_CHUNK, chunk, &first, &last);
    for (int row = first; row < last; row++) {
        if (layer->whole_norms) norm_whole(work, layer, row);
        for (int head = 0; head < work->model->kv_heads; head++) remember(work, layer, row, head);
    }
}

/* Rows of one chunk of attention: many in a long prompt, so that keys are loaded once for all. */
static int attention_grain(const Work *work) {
    const int group = work->model->heads / work->model->kv_heads, rows = work->batch->rows;
    const int most = work->desk.slab / group, even = rows / CHUNKS_A_THREAD / work->threads;
    if (rows <= 8 * ROWS_A_CHUNK || most < ROWS_A_CHUNK) return ROWS_A_CHUNK;
    return most <= SLAB / group || even > most ? most : larger(even, SLAB / group);
}

/* Attention of some queries of one text. */
static void attend_queries(const Work *work, const Layer *layer, int row, int head, int member,
                           Query *queries, int count) {
    const Desk *desk = &work->desk;
    const Head own = head_at(work, layer, row, head, member);
    float *scores = desk->scores + member * desk->scores_size;
    if (by_tiles(work->model, work->batch, row)) {
        amx_attend(&own, queries, count, scores, desk->tiled_stride, own.floats);
        return;
    }
    for (int i = 0; i < count; i++) queries[i].scores = scores + i * desk->scores_stride + LANES;
    attend(&own, queries, count);
}

/* A chunk is some rows of one key head. Rows of one text share each key that is loaded. */
static void attend_rows(const Work *work, const Layer *layer, int chunk, int member) {
    const Model *m = work->model;
    const Batch *b = work->batch;
    const int grain = attention_grain(work), a_head = pieces(b->rows, grain);
    const int head = chunk / a_head, group = m->heads / m->kv_heads;
    Query queries[WIDE_SLAB];
    int first, last, count = 0;
    piece(b->rows, grain, chunk % a_head, &first, &last);
    for (int i = first * group; i < last * group; i++) {
        const int row = i / group;
        queries[count++] = query_of(work, layer, row, head, i % group);
        const int ends = i + 1 == last * group || b->cache[(i + 1) / group] != b->cache[row];
        if (!ends && count < (by_tiles(m, b, row) ? WIDE_SLAB : SLAB)) continue;
        attend_queries(work, layer, row, head, member, queries, count);
        count = 0;
    }
}

static void hand_over_rows(const Work *work, const Matrix *next, float *values, int64_t stride,
                           int chunk) {
    int first, last;
    piece(work->batch->rows, ROWS_A_CHUNK, chunk, &first, &last);
    for (int row = first; row < last; row++) hand_over(work, next, values + row * stride, row);
}

/* Float32 matrices read rows without gaps. */
static void close_gaps(const Work *work, const Matrix *next, float *values, int64_t stride) {
    for (int row = 1; row < work->batch->rows && stride != next->inputs; row++)
        memmove(values + (int64_t)row * next->inputs, values + row * stride,
                sizeof(float) * next->inputs);
}

/* Logits of the requested rows, and the normed states from which they are computed. */
static void answer_rows(const Work *work, int chunk) {
    const Model *m = work->model;
    const Batch *b = work->batch;
    const Desk *desk = &work->desk;
    const int keeps = is_kept(b, m->num_layers);
    int first, last;
    piece(b->wanted, ROWS_A_CHUNK, chunk, &first, &last);
    for (int i = first; i < last; i++) {
        if (keeps) keep_state(work, m->num_layers, i);
        float *normed = desk->normed + (int64_t)i * m->hidden;
        const float *stream = desk->stream + b->want[i] * desk->stream_stride;
        if (m->norm) rms_norm(stream, m->norm, m->eps, m->hidden, normed);
        else memcpy(normed, stream, sizeof(float) * m->hidden);
        hand_over(work, &m->head, normed, i);
        if (b->hidden) memcpy(b->hidden + (int64_t)i * m->hidden, normed, sizeof(float) * m->hidden);
    }
}

/* -- experts --------------------------------------------------------------------------------- */

static int expert_chunks(const Work *work) {
    return work->threads == 1 ? 1 : work->threads * CHUNKS_A_THREAD;
}

static int expert_chunks_of(const Work *work, const Experts *e, int step) {
    const Mixture *mixture = &work->desk.mixture;
    const int touched = *mixture->num_touched, wanted = expert_chunks(work);
    const int a_rows = pieces(work->batch->rows, ROWS_A_CHUNK);
    const int a_pairs = pieces(work->batch->rows * e->chosen, ROWS_A_CHUNK);
    switch (step) {
    case SORT: return 1;
    case GATHER: return a_pairs;
    case GATE_UP: return touched * expert_pieces(mixture, e->gate_up, wanted);
    case DOWN_ROWS: return is_dense(e, mixture) ? a_pairs : 1;
    case DOWN: return touched * expert_pieces(mixture, e->down, wanted);
    case ADD_DOWN: return 0; /* COMBINE adds at once: no model has experts and norms behind them */
    default: return a_rows;
    }
}

static void run_experts(const Work *work, const Layer *layer, int step, int chunk) {
    const Experts *e = layer->experts;
    const Desk *desk = &work->desk;
    const Mixture *mixture = &desk->mixture;
    const Forms forms = {desk->quants, desk->scales, desk->sums};
    const Sink inner = {mixture->inner, mixture->inner_stride, GATED,
                        activation(work->model->activation)};
    const Sink results = {mixture->values, mixture->result_stride, WRITE, NULL};
    const int rows = work->batch->rows, pairs = rows * e->chosen, wanted = expert_chunks(work);
    int first, last;
    piece(step == GATHER || step == DOWN_ROWS ? pairs : rows, ROWS_A_CHUNK, chunk, &first, &last);
    switch (step) {
    case MLP_NORM:
        norm_rows(work, chunk, layer->mlp_norm, &e->router, NULL);
        route_rows(e, mixture, rows_of(work, desk->normed), first, last);
        break;
    case SORT: sort_by_expert(e, mixture, rows); break;
    case GATHER:
        for (int i = first; i < last; i++) gather_row(e, mixture, desk->normed, i, forms);
        break;
    case GATE_UP:
        expert_product(mixture, e->gate_up, rows_of(work, mixture->values), inner, wanted, chunk);
        break;
    case DOWN_ROWS:
        if (is_dense(e, mixture)) gather_inner(e, mixture, first, last, forms);
        else gather_inner(e, mixture, 0, pairs, forms);
        break;
    case DOWN:
        expert_product(mixture, e->down, rows_of(work, mixture->inner), results, wanted, chunk);
        break;
    case COMBINE:
        for (int row = first; row < last; row++)
            combine_row(e, mixture, row, desk->stream + row * desk->stream_stride);
        break;
    }
}

/* -- parts ----------------------------------------------------------------------------------- */

/* Steps of an omitted part have no chunks, except that the first layer is always entered. */
static int is_run(const Work *work, int index, int step) {
    const Batch *b = work->batch;
    if (step == INPUT_NORM && (!index || is_kept(b, index) || keeps_rows(b, index))) return 1;
    return work->model->layers[index].parts & (step < MLP_NORM ? ATTENTION : MLP);
}

/* -- program --------------------------------------------------------------------------------- */

static int chunks_of(const void *argument, int step) {
    const Work *work = argument;
    const Model *m = work->model;
    const int a_rows = pieces(work->batch->rows, ROWS_A_CHUNK);
    if (step >= m->num_layers * STEPS_OF_A_LAYER) {
        const int wanted = work->batch->wanted;
        switch (step % STEPS_OF_A_LAYER) {
        case KEEP_ROWS: return keeps_end(m, work->batch) ? a_rows : 0;
        case ANSWER_ROWS: return pieces(wanted, ROWS_A_CHUNK);
        default: return wanted ? pieces(m->head.panels, grain_of(work, &m->head)) : 0;
        }
    }
    const Layer *layer = &m->layers[step / STEPS_OF_A_LAYER];
    if (!is_run(work, step / STEPS_OF_A_LAYER, step % STEPS_OF_A_LAYER)) return 0;
    if (layer->experts && step % STEPS_OF_A_LAYER >= MLP_NORM)
        return expert_chunks_of(work, layer->experts, step % STEPS_OF_A_LAYER);
    switch (step % STEPS_OF_A_LAYER) {
    case SORT: case GATHER: case COMBINE: return 0;
    case QKV: return qkv_chunks(work, layer, layer->num_qkv);
    case ATTEND: return pieces(work->batch->rows, attention_grain(work)) * m->kv_heads;
    case OUTPUT_ROWS: return reads_integers(&layer->output) ? a_rows : 0;
    case ADD_OUTPUT:
    case ADD_DOWN: return adds_later(m) ? a_rows : 0;
    case OUTPUT: return pieces(layer->output.panels, grain_of(work, &layer->output));
    case GATE_UP: return pieces(layer->gate_up.panels, grain_of(work, &layer->gate_up));
    case DOWN_ROWS: return reads_integers(&layer->down) ? a_rows : 1;
    case DOWN: return pieces(layer->down.panels, grain_of(work, &layer->down));
    default: return a_rows;
    }
}

static void run_in_layer(const Work *work, int index, int step, int chunk, int member) {
    const Model *m = work->model;
    const Layer *layer = &m->layers[index];
    const Desk *desk = &work->desk;
    const int rows = work->batch->rows;
    const Sink packed = {desk->packed, desk->packed_stride, WRITE, NULL};
    const Sink inner = {desk->inner, desk->inner_stride, GATED, activation(m->activation)};
    const Sink at_once = {desk->stream, desk->stream_stride, ADD, NULL};
    const Sink later = {desk->result, desk->stream_stride, WRITE, NULL};
    const Sink stream = adds_later(m) ? later : at_once;
    if (layer->experts && step >= MLP_NORM) {
        run_experts(work, layer, step, chunk);
        return;
    }
    switch (step) {
    case INPUT_NORM:
        enter(work, index, chunk);
        if (layer->parts & ATTENTION)
            norm_rows(work, chunk, layer->input_norm, any_integers(layer), work->batch->joined);
        break;
    case QKV: product_qkv(work, layer, packed, chunk); break;
    case REMEMBER: remember_rows(work, layer, chunk); break;
    case ATTEND: attend_rows(work, layer, chunk, member); break;
    case OUTPUT_ROWS:
        hand_over_rows(work, &layer->output, desk->attended, layer->output.inputs, chunk);
        break;
    case OUTPUT: product(work, &layer->output, desk->attended, rows, stream, chunk); break;
    case ADD_OUTPUT: add_rows(work, chunk, layer->output_norm); break;
    case MLP_NORM: norm_rows(work, chunk, layer->mlp_norm, &layer->gate_up, NULL); break;
    case GATE_UP: product(work, &layer->gate_up, desk->normed, rows, inner, chunk); break;
    case DOWN_ROWS:
        if (reads_integers(&layer->down))
            hand_over_rows(work, &layer->down, desk->inner, desk->inner_stride, chunk);
        else close_gaps(work, &layer->down, desk->inner, desk->inner_stride);
        break;
    case DOWN: product(work, &layer->down, desk->inner, rows, stream, chunk); break;
    case ADD_DOWN: add_rows(work, chunk, layer->down_norm); break;
    }
}

/* Some panels of the logits. */
static void answer(const Work *work, int chunk) {
    const Model *m = work->model;
    const Batch *b = work->batch;
    int first, last;
    product(work, &m->head, work->desk.normed, b->wanted,
            (Sink){b->logits, b->logits_stride, WRITE, NULL}, chunk);
    if (m->logits_divisor == 1.0f && !m->logits_cap) return;
    piece(m->head.panels, grain_of(work, &m->head), chunk, &first, &last);
    for (int row = 0; row < b->wanted; row++)
        finish_logits(b->logits + row * b->logits_stride + first * LANES,
                      (int64_t)(last - first) * LANES, m->logits_divisor, m->logits_cap);
}

static void run_step(void *argument, int step, int chunk, int member) {
    const Work *work = argument;
    const Model *m = work->model;
    const int layer = step / STEPS_OF_A_LAYER;
    if (layer < m->num_layers)
        run_in_layer(work, layer, step % STEPS_OF_A_LAYER, chunk, member);
    else if (step % STEPS_OF_A_LAYER == KEEP_ROWS)
        keep_rows(work, chunk);
    else if (step % STEPS_OF_A_LAYER == ANSWER_ROWS)
        answer_rows(work, chunk);
    else
        answer(work, chunk);
}

/* Writes the embeddings of tokens, which must be in the vocabulary, to `out` [count, hidden]. */
void outrider_embed(const Model *model, int32_t count, const int32_t *tokens, float *out) {
    for (int i = 0; i < count; i++) {
        float *row = out + (int64_t)i * model->hidden;
        unpack_row(&model->embed, tokens[i], row);
        scale_row(row, model->hidden, model->embed_scale);
    }
}

/* Writes the rows `outputs` of a matrix to `out` [count, inputs]. */
void outrider_unpack(const Matrix *w, int32_t count, const int32_t *outputs, float *out) {
    for (int i = 0; i < count; i++) unpack_row(w, outputs[i], out + (int64_t)i * w->inputs);
}

/* The number that is added to weights of 8 bits in groups. */
int32_t outrider_offset(void) { return OFFSET; }

int32_t outrider_forward(const Model *model, Pool *pool, int32_t threads, const Batch *batch) {
    Work work = {model, batch, {0}, threads};
    if (!batch->rows) return 0;
    for (int i = 0; i < batch->rows; i++)
        if (batch->tokens[i] < 0 || batch->tokens[i] >= model->vocab) return 2;
    const int members = outrider_pool_size(pool);
    int64_t bytes = lay_out(&work.desk, model, batch, members, NULL);
    void *memory = malloc(bytes + 64);
    if (!memory) return 1;
    lay_out(&work.desk, model, batch, members, (char *)(((uintptr_t)memory + 63) / 64 * 64));
    const int ends = batch->wanted || keeps_end(model, batch);
    int steps = model->num_layers * STEPS_OF_A_LAYER + (ends ? STEPS_OF_THE_END : 0);
    pool_run(pool, threads, &(Task){&work, steps, chunks_of, run_step});
    free(memory);
    return 0;
}
