/* The sums of `attention.h` in vectors of 32 bytes (AVX2), with the same operations in the same
 * order: 2 * Q * B of them fit into the registers. */
#ifndef OUTRIDER_ATTENTION_HALF_H
#define OUTRIDER_ATTENTION_HALF_H

INLINE void score_blocks(const float *blocks, int head_dim, const Query *queries, int slot, int Q,
                         int B) {
    const int64_t size = (int64_t)head_dim * LANES;
    __m256 scores[MOST_QUERIES][2 * WIDE];
    for (int q = 0; q < Q; q++)
        for (int i = 0; i < 2 * B; i++) scores[q][i] = _mm256_setzero_ps();
    for (int d = 0; d < head_dim; d++) {
        __m256 x[MOST_QUERIES];
#pragma GCC unroll 3
        for (int q = 0; q < Q; q++) x[q] = _mm256_set1_ps(queries[q].query[d]);
#pragma GCC unroll 4
        for (int i = 0; i < 2 * B; i++) {
            const __m256 key = _mm256_loadu_ps(blocks + i / 2 * size + d * LANES + i % 2 * HALF);
#pragma GCC unroll 3
            for (int q = 0; q < Q; q++) scores[q][i] = _mm256_fmadd_ps(x[q], key, scores[q][i]);
        }
    }
    for (int q = 0; q < Q; q++)
        for (int i = 0; i < 2 * B; i++) {
            const int from = slot + i / 2 * LANES; /* hidden slots inside a block do no harm */
            if (from < queries[q].base && from + LANES > queries[q].first)
                _mm256_storeu_ps(queries[q].scores + from - queries[q].first + i % 2 * HALF,
                                 scores[q][i]);
        }
}

INLINE void add_values(const float *value, int head_dim, const Query *queries, int from, int to,
                       int d, int Q, int W) {
    __m256 sums[MOST_QUERIES][2 * WIDE];
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < 2 * W; v++)
            sums[q][v] = _mm256_loadu_ps(queries[q].out + d + v * HALF);
    value += d;
    for (int slot = from; slot < to; slot++, value += head_dim) {
        __m256 weight[MOST_QUERIES];
#pragma GCC unroll 3
        for (int q = 0; q < Q; q++)
            weight[q] = _mm256_set1_ps(queries[q].scores[slot - queries[q].first]);
#pragma GCC unroll 4
        for (int v = 0; v < 2 * W; v++) {
            const __m256 x = _mm256_loadu_ps(value + v * HALF);
#pragma GCC unroll 3
            for (int q = 0; q < Q; q++) sums[q][v] = _mm256_fmadd_ps(weight[q], x, sums[q][v]);
        }
    }
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < 2 * W; v++)
            _mm256_storeu_ps(queries[q].out + d + v * HALF, sums[q][v]);
}

#endif
