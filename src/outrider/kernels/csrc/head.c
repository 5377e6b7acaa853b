#include "head.h"

#include <stdlib.h>

#include "next.h"
#include "rows.h"

/* -- products -------------------------------------------------------------------------------- */

enum { TAKE_ROWS, MULTIPLY, STEPS_OF_A_PRODUCT };
enum { ROWS_AT_ONCE = 4, PANELS_AT_ONCE = 8 };

/* Adds `rows` rows times a matrix to `out`, or writes it there. */
typedef struct {
    const Matrix *w;
    const float *values; /* [rows, inputs] */
    Forms forms;
    Sink sink;
    int rows, threads;
} Product;

static int panels_at_once(const Product *p) {
    return p->threads == 1 ? p->w->panels : PANELS_AT_ONCE;
}

static int chunks_of(const void *argument, int step) {
    const Product *p = argument;
    const int all = step == MULTIPLY ? p->w->panels : reads_integers(p->w) ? p->rows : 0;
    const int grain = step == MULTIPLY ? panels_at_once(p) : ROWS_AT_ONCE;
    return (all + grain - 1) / grain;
}

static void run_step(void *argument, int step, int chunk, int member) {
    const Product *p = argument;
    const int grain = step == MULTIPLY ? panels_at_once(p) : ROWS_AT_ONCE;
    const int all = step == MULTIPLY ? p->w->panels : p->rows, first = chunk * grain;
    const int last = first + grain < all ? first + grain : all;
    const Rows rows = {p->values, p->forms.quants, p->forms.scales, p->forms.sums};
    (void)member;
    if (step == MULTIPLY) multiply(p->w, rows, p->rows, &p->sink, first, last);
    else
        for (int row = first; row < last; row++)
            write_form(p->w, p->values + (int64_t)row * p->w->inputs, row, p->forms);
}

/* -- rows ------------------------------------------------------------------------------------ */

typedef struct {
    float *values;         /* [rows, widest input] of the next product */
    float *base;           /* [rows, stride], the stream */
    float *joined;         /* [rows, hidden] */
    float *wide, *gates;   /* [rows, wide_stride] */
    float *mixed;          /* [rows, inputs of `down`] */
    const float **given;   /* [rows] rows of `base` */
    const float **beside;  /* [rows] rows of `joined` */
    Forms forms;
    int64_t stride, wide_stride;
} Room;

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static void *part(char **place, int64_t bytes) {
    void *taken = *place;
    *place += (bytes + 63) / 64 * 64;
    return taken;
}

static int64_t lay_out(Room *room, const DraftHead *head, int rows, char *memory) {
    const int64_t hidden = head->layer->hidden;
    const int64_t widest = most(most(head->fuse.inputs, head->down.inputs), hidden);
    const int64_t groups = (widest + GROUP - 1) / GROUP;
    char *place = memory;
    room->stride = most((int64_t)head->fuse.panels * LANES, hidden);
    room->values = part(&place, rows * widest * 4);
    room->base = part(&place, rows * room->stride * 4);
    room->joined = part(&place, rows * hidden * 4);
    room->wide_stride = (int64_t)head->up.panels * LANES;
    room->wide = part(&place, rows * room->wide_stride * 4);
    room->gates = part(&place, rows * room->wide_stride * 4);
    room->mixed = part(&place, rows * (int64_t)head->down.inputs * 4);
    room->given = part(&place, rows * sizeof(float *));
    room->beside = part(&place, rows * sizeof(float *));
    room->forms.quants = part(&place, rows * groups * GROUP);
    room->forms.scales = part(&place, rows * groups * 4);
    room->forms.sums = part(&place, rows * groups * 8);
    return place - memory;
}

static void product_of(Pool *pool, int threads, const Room *room, const Matrix *w,
                       const float *values, int rows, Sink sink) {
    Product product = {w, values, room->forms, sink, rows, threads};
    pool_run(pool, threads, &(Task){&product, STEPS_OF_A_PRODUCT, chunks_of, run_step});
}

static void add_product(Pool *pool, int threads, const Room *room,
                        const Matrix *w, int rows, Fate fate) {
    const Sink stream = {room->base, room->stride, fate, NULL};
    product_of(pool, threads, room, w, room->values, rows, stream);
}

/* The embedding of a token, normed unless it is read as it is. */
static void embed_row(const DraftHead *head, int32_t token, float *out) {
    const Model *target = head->target;
    unpack_row(&target->embed, token, out);
    scale_row(out, head->layer->hidden, target->embed_scale);
    if (head->token_norm)
        rms_norm(out, head->token_norm, head->layer->eps, head->layer->hidden, out);
}

/* The input of the stream of a row: its states, normed, or the output of the row before. */
static void input_row(const DraftHead *head, const float *input, int continued, float *out) {
    const int width = head->state_width, states = head->states;
    const float eps = head->layer->eps;
    const int again = continued && head->continues == BY_FUSE;
    for (int i = 0; !continued && i < states; i++) {
        if (head->state_norm)
            rms_norm(input + i * width, head->state_norm + i * width, eps, width, out + i * width);
        else memcpy(out + i * width, input + i * width, sizeof(float) * width);
    }
    if (!continued && head->fused_norm)
        rms_norm(out, head->fused_norm, eps, states * width, out);
    if (again && head->state_norm) rms_norm(input, head->state_norm, eps, width, out);
    else if (continued) memcpy(out, input, sizeof(float) * head->layer->hidden);
}

/* Mixes the embeddings of the tokens into the states, which lie in `values`:
 * state += down * (up * state times silu(gate * embedding)). */
static void mix_rows(const DraftHead *head, Pool *pool, int threads, const Room *room,
                     const int32_t *tokens, int count) {
    const int64_t hidden = head->layer->hidden, stride = room->wide_stride;
    const int64_t inputs = head->down.inputs;
    const Sink wide = {room->wide, stride, WRITE, NULL}, gates = {room->gates, stride, WRITE, NULL};
    const Sink result = {room->base, room->stride, WRITE, NULL};
    for (int i = 0; i < count; i++) embed_row(head, tokens[i], room->joined + i * hidden);
    product_of(pool, threads, room, &head->gate, room->joined, count, gates);
    product_of(pool, threads, room, &head->up, room->values, count, wide);
    for (int i = 0; i < count; i++) {
        float *row = room->wide + i * stride;
        const float *gate = room->gates + i * stride;
        for (int64_t k = 0; k < stride; k += LANES)
            store(row + k, load(row + k) * silu16(load(gate + k)));
        memcpy(room->mixed + i * inputs, row, sizeof(float) * inputs);
    }
    product_of(pool, threads, room, &head->down, room->mixed, count, result);
    for (int i = 0; i < count; i++)
        for (int64_t k = 0; k < hidden; k++)
            room->values[i * hidden + k] += room->base[i * room->stride + k];
}

static void fill_inputs(const DraftHead *head, Pool *pool, int threads, const Room *room,
                        const HeadRows *rows, const int32_t *tokens, int count) {
    const int64_t hidden = head->layer->hidden;
    const Matrix *w = !rows->continued || head->continues == BY_FUSE ? &head->fuse
                    : head->continues == BY_RECUR ? &head->recur : NULL;
    for (int i = 0; i < count; i++)
        input_row(head, rows->inputs[i], rows->continued,
                  w ? room->values + (int64_t)i * w->inputs : room->base + i * room->stride);
    if (head->up.outputs) mix_rows(head, pool, threads, room, tokens, count);
    if (w) add_product(pool, threads, room, w, count, WRITE);
    for (int i = 0; i < count && head->bias; i++) {
        float *row = room->base + i * room->stride;
        for (int64_t k = 0; k < hidden; k++) row[k] += head->bias[k];
    }
    for (int i = 0; i < count && head->normed_stream; i++) {
        float *row = room->base + i * room->stride;
        rms_norm(row, head->hidden_norm, head->layer->eps, hidden, row);
    }
}

static void fill_tokens(const DraftHead *head, Pool *pool, int threads, const Room *room,
                        const int32_t *tokens, int count) {
    const int64_t hidden = head->layer->hidden;
    float *out = head->joins ? room->joined : room->values;
    for (int i = 0; i < count; i++) embed_row(head, tokens[i], out + i * hidden);
    if (head->token.outputs) add_product(pool, threads, room, &head->token, count, ADD);
}

static void fill_hints(const DraftHead *head, Pool *pool, int threads, const Room *room,
                       const HeadRows *rows, int count) {
    const int64_t hidden = head->layer->hidden;
    for (int i = 0; i < count; i++) {
        if (rows->levels[i]) embed_row(head, rows->hints[i], room->values + i * hidden);
        else memset(room->values + i * hidden, 0, sizeof(float) * hidden);
    }
    add_product(pool, threads, room, &head->hint, count, ADD);
    for (int i = 0; i < count; i++) {
        float *row = room->base + i * room->stride;
        const float *level = head->levels + rows->levels[i] * hidden;
        for (int64_t k = 0; k < hidden; k++) row[k] += level[k];
    }
}

/* -- forwards -------------------------------------------------------------------------------- */

int32_t outrider_head(const DraftHead *head, Pool *pool, int32_t threads, const Batch *batch,
                      const HeadRows *rows, float *outputs) {
    static const int32_t last_only[] = {-1, 0};
    const int count = batch->rows;
    if (!count) return 0;
    for (int i = 0; i < count; i++)
        if (batch->tokens[i] < 0 || batch->tokens[i] >= head->target->vocab) return 2;
    Room room;
    void *memory = malloc(lay_out(&room, head, count, NULL) + 64);
    if (!memory) return 1;
    lay_out(&room, head, count, (char *)(((uintptr_t)memory + 63) / 64 * 64));
    fill_inputs(head, pool, threads, &room, rows, batch->tokens, count);
    fill_tokens(head, pool, threads, &room, batch->tokens, count);
    if (head->hint.outputs) fill_hints(head, pool, threads, &room, rows, count);
    for (int i = 0; i < count; i++) {
        room.given[i] = room.base + i * room.stride;
        room.beside[i] = room.joined + (int64_t)i * head->layer->hidden;
    }
    Batch one = *batch;
    one.given = room.given;
    one.joined = head->joins ? room.beside : NULL;
    one.keep = NULL;
    one.hidden = head->normed_output ? outputs : NULL;
    one.states = head->normed_output ? NULL : outputs;
    one.state_at = last_only;
    int32_t trouble = outrider_forward(head->layer, pool, threads, &one);
    free(memory);
    return trouble;
}

/* The logit of a token that the draft vocabulary lacks: a row of the target's head times the normed
 * output. */
static float score(const DraftHead *head, int32_t token, const float *output, float *row) {
    const Model *target = head->target;
    unpack_row(&target->head, token, row);
    float sum = 0;
    for (int i = 0; i < target->hidden; i++) sum += row[i] * output[i];
    float padded[LANES] = {sum};
    finish_logits(padded, LANES, head->layer->logits_divisor, head->layer->logits_cap);
    return padded[0];
}

/* The probability of one of the scores, at this temperature (1 if it is 0). */
static float probability(const float *scores, int32_t count, int32_t one, float temperature) {
    const float inverse = temperature > 0 ? 1.0f / temperature : 1.0f;
    const f32x16 factor = splat(inverse);
    if (!isfinite(inverse)) return 1; /* as if it were 0: the best token is certain */
    f32x16 sums = (f32x16){0};
    float rest = 0;
    int32_t i = 0;
    for (; i + LANES <= count; i += LANES)
        sums += exp16((load(scores + i) - splat(scores[one])) * factor);
    for (; i < count; i++) rest += expf((scores[i] - scores[one]) * factor[0]);
    return 1.0f / (sum16(sums) + rest);
}

int32_t outrider_head_write(const DraftHead *head, Pool *pool, int32_t threads,
                            int32_t threads_for_one, const Batch *batch, const HeadRows *rows,
                            const Hints *hints, int32_t before,
                            const Sampler *sampler, uint64_t index, int32_t depth,
                            const int32_t *end_ids, int32_t num_end_ids,
                            const Promise *promise, float *first,
                            int32_t *written, int32_t *trouble) {
    const int32_t drafts = head->layer->head.outputs, hidden = head->layer->hidden;
    const int32_t behind = batch->extra_start[batch->rows], stride = head->layer->head.panels * LANES;
    float *desk = malloc(sizeof(float) * (3 * (int64_t)drafts + 128 + stride + 16 + 2 * hidden));
    int32_t *path = malloc(sizeof(int32_t) * (behind + depth + 1));
    int32_t *names = malloc(sizeof(int32_t) * (drafts + 1));
    int32_t count = 0, hint = 0, level = 0;
    float reach = 1;
    *trouble = 1;
    if (desk && path && names) {
        float *logits = desk + 3 * (int64_t)drafts + 128, *output = logits + stride + 16;
        float *row = output + hidden;
        memcpy(names, head->ids, sizeof(int32_t) * drafts);
        Batch text = *batch;
        text.logits = logits, text.logits_stride = stride;
        Next next = after(batch, path);
        next.token = batch->tokens[batch->rows - 1];
        const Batch one = batch_of(&text, &next);
        const float *input = output;
        const HeadRows follows = {&input, 1, &hint, &level};
        if (hints) hint = outrider_hint(hints, before, next.token, &level);
        *trouble = outrider_head(head, pool, threads, &text, rows, output);
        memcpy(first, output, sizeof(float) * hidden);
        while (!*trouble) {
            int32_t size = drafts;
            if (level && head->normed_output && head->place[hint] < 0) {
                names[size] = hint;
                logits[size++] = score(head, hint, output, row);
            }
            const int32_t found =
                outrider_choose(logits, size, sampler, index + count, NULL, names, desk);
            if (found < 0) {
                *trouble = found;
                break;
            }
            if (promise) {
                const float p = probability(logits, size, found, sampler->temperature);
                const int place = p > 0 ? (int)(p * CHANCES) : 0; /* NaN is 0 */
                promise->classes[count] = place < CHANCES ? place : CHANCES - 1;
                reach *= promise->chances[promise->classes[count]];
            }
            before = next.token;
            written[count++] = next.token = names[found];
            if (count == depth || ends(next.token, end_ids, num_end_ids)) break;
            if (promise && reach < promise->least) break;
            if (batch->confidence > 0 &&
                !is_sure(logits, size, sampler->temperature, batch->confidence))
                break;
            if (hints) hint = outrider_hint(hints, before, next.token, &level);
            advance(&next);
            *trouble = outrider_head(head, pool, threads_for_one, &one, &follows, output);
        }
    }
    free(desk);
    free(path);
    free(names);
    return count;
}
