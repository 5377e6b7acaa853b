/* Layers with experts: a router chooses a few of many gated MLPs for each row (Jiang et al. 2024).
 *
 * Pairs of a row and one of its experts are sorted by expert, so the matrices of an expert are read
 * once for all rows that chose it. The choice depends on the row alone, products do not depend on
 * other rows (`matmul.h`), and the results of a row are added in the order of its experts. So a row
 * has the same bits whatever the other rows are. */
#ifndef OUTRIDER_EXPERTS_H
#define OUTRIDER_EXPERTS_H

#include "rows.h"

/* What the steps of one layer with experts write. A pair has a place in the order by expert. */
typedef struct {
    float *logits;    /* [rows, logits_stride] of the router */
    int32_t *chosen;  /* [rows, chosen] experts, ascending */
    float *weights;   /* [rows, chosen] */
    int32_t *place;   /* [rows, chosen] the place of each pair */
    int32_t *row;     /* [pairs] the row at each place */
    int32_t *owner;   /* [pairs] the expert at each place */
    int32_t *first;   /* [count + 1] the first place of each expert */
    int32_t *touched; /* [count] experts with rows, ascending */
    int32_t *num_touched;
    float *values; /* [pairs, widest] inputs of gate and up; later results of down */
    float *inner;  /* [pairs, inner_stride] */
    int64_t logits_stride, inner_stride, result_stride;
} Mixture;

INLINE int64_t width_of(const Matrix *w) { return (int64_t)w->panels * LANES; }

/* The softmax of `logits`, in place, and its `chosen` largest entries; equal ones in order. The
 * numbers are those of experts also if a logit is NaN: the weights then are NaN. */
static void choose_experts(const Experts *e, float *logits, int32_t *chosen, float *weights) {
    float top = logits[0], total = 0, kept = 0;
    for (int i = 1; i < e->count; i++) top = logits[i] > top ? logits[i] : top;
    for (int i = 0; i < e->count; i += LANES)
        store(logits + i, exp16(load(logits + i) - splat(top)));
    for (int i = 0; i < e->count; i++) total += logits[i];
    for (int rank = 0; rank < e->chosen; rank++) {
        int best = -1, at = rank;
        for (int i = 0; i < e->count; i++) /* -1 marks those that are chosen */
            if (logits[i] != -1.0f && (best < 0 || logits[i] > logits[best])) best = i;
        for (; at && chosen[at - 1] > best; at--)
            chosen[at] = chosen[at - 1], weights[at] = weights[at - 1];
        chosen[at] = best;
        weights[at] = logits[best] / total;
        kept += weights[at];
        logits[best] = -1.0f;
    }
    for (int rank = 0; e->normalized && rank < e->chosen; rank++) weights[rank] /= kept;
}

/* Chooses the experts of rows `first .. last`; `normed` holds all rows. */
static void route_rows(const Experts *e, const Mixture *mixture, Rows normed, int first, int last) {
    float *logits = mixture->logits + first * mixture->logits_stride;
    const Sink sink = {logits, mixture->logits_stride, WRITE, NULL};
    multiply(&e->router, from_row(&e->router, normed, first), last - first, &sink, 0,
             e->router.panels);
    for (int row = first; row < last; row++, logits += mixture->logits_stride)
        choose_experts(e, logits, mixture->chosen + (int64_t)row * e->chosen,
                       mixture->weights + (int64_t)row * e->chosen);
}

/* Gives each pair of `rows` rows a place: by expert, then by row. */
static void sort_by_expert(const Experts *e, const Mixture *mixture, int rows) {
    const int64_t pairs = (int64_t)rows * e->chosen;
    int32_t *first = mixture->first, touched = 0, before = 0;
    memset(first, 0, sizeof(int32_t) * (e->count + 1));
    for (int64_t i = 0; i < pairs; i++) first[mixture->chosen[i]]++;
    for (int i = 0; i <= e->count; i++) { /* the number of rows becomes the first place */
        const int32_t own = first[i];
        if (own) mixture->touched[touched++] = i;
        first[i] = before;
        before += own;
    }
    *mixture->num_touched = touched;
    for (int64_t i = 0; i < pairs; i++) { /* moves `first` to the next expert */
        const int32_t at = first[mixture->chosen[i]]++;
        mixture->place[i] = at;
        mixture->row[at] = (int32_t)(i / e->chosen);
        mixture->owner[at] = mixture->chosen[i];
    }
    memmove(first + 1, first, sizeof(int32_t) * e->count);
    first[0] = 0;
}

/* The rows of an expert, one after the other, as its matrix reads them. */
static void gather_row(const Experts *e, const Mixture *mixture, const float *normed, int64_t place,
                       Forms forms) {
    const Matrix *w = e->gate_up + mixture->owner[place];
    const float *x = normed + (int64_t)mixture->row[place] * w->inputs;
    if (reads_integers(w)) write_form(w, x, place, forms);
    else memcpy(mixture->values + place * w->inputs, x, sizeof(float) * w->inputs);
}

/* Whether the results of gate and up lie as matrices of floats read them. */
INLINE int is_dense(const Experts *e, const Mixture *mixture) {
    return mixture->inner_stride == e->down->inputs;
}

/* The input of `down` at places `first .. last`. Gaps between rows of floats are closed last, by a
 * call for all places. */
static void gather_inner(const Experts *e, const Mixture *mixture, int first, int last,
                         Forms forms) {
    for (int place = first; place < last; place++) {
        const Matrix *w = e->down + mixture->owner[place];
        if (reads_integers(w)) write_form(w, mixture->inner + place * mixture->inner_stride, place, forms);
    }
    for (int place = first; place < last && !is_dense(e, mixture); place++)
        memmove(mixture->inner + (int64_t)place * e->down->inputs,
                mixture->inner + place * mixture->inner_stride, sizeof(float) * e->down->inputs);
}

/* Panels of one chunk: all experts together make enough chunks for the threads. */
INLINE int expert_grain(const Mixture *mixture, const Matrix *w, int chunks) {
    const int even = (int)((int64_t)w->panels * *mixture->num_touched / chunks / 8 * 8);
    return even > w->panels ? w->panels : even > 8 ? even : 8;
}

INLINE int expert_pieces(const Mixture *mixture, const Matrix *w, int chunks) {
    const int grain = expert_grain(mixture, w, chunks);
    return (w->panels + grain - 1) / grain;
}

/* Some panels of one touched expert, for all of its rows. `chunks` is the number wanted in all. */
static void expert_product(const Mixture *mixture, const Matrix *experts, Rows x, Sink sink,
                           int chunks, int chunk) {
    const int a_matrix = expert_pieces(mixture, experts, chunks);
    const int grain = expert_grain(mixture, experts, chunks);
    const int expert = mixture->touched[chunk / a_matrix], first = chunk % a_matrix * grain;
    const Matrix *w = experts + expert;
    const int start = mixture->first[expert], rows = mixture->first[expert + 1] - start;
    sink.out += start * sink.stride;
    multiply(w, from_row(w, x, start), rows, &sink, first,
             first + grain < w->panels ? first + grain : w->panels);
}

/* Adds the results of the experts of one row to `out`, in the order of the experts. */
static void combine_row(const Experts *e, const Mixture *mixture, int row, float *out) {
    const int32_t *place = mixture->place + (int64_t)row * e->chosen;
    const float *weights = mixture->weights + (int64_t)row * e->chosen;
    for (int64_t i = 0; i < mixture->result_stride; i += LANES) {
        f32x16 sum = (f32x16){0};
        for (int k = 0; k < e->chosen; k++)
            sum = sum + load(mixture->values + place[k] * mixture->result_stride + i) *
                            splat(weights[k]);
        store(out + i, load(out + i) + sum);
    }
}

#endif
