/* Running means of the most likely tokens after an n-gram: adds one row to each of some slots. */
#include <stdint.h>

enum { MOST = 64 };

/* Adds row `sources[i]` of `row_ids` and `row_values` [rows, k] to slot `slots[i]` of the tables
  * `ids` and `means` [slots, k], for each i in order, so that a slot may occur several times. The k
 * largest values of mean and row are kept, largest first; equal values keep their order. */
void outrider_blend(int32_t count, const int64_t *slots, const int64_t *sources, int32_t k,
                    const int32_t *row_ids, const float *row_values, int32_t *ids, float *means,
                    int32_t *counts) {
    for (int i = 0; i < count; i++) {
        int32_t *known = ids + slots[i] * k;
        float *mean = means + slots[i] * k, seen = (float)counts[slots[i]]++;
        const int32_t *row = row_ids + sources[i] * k;
        const float *value = row_values + sources[i] * k;
        int32_t id[2 * MOST];
        float weight[2 * MOST];
        uint64_t met = 0;
        for (int j = 0; j < k; j++) {
            float total = mean[j] * seen;
            for (int r = 0; r < k && known[j] >= 0; r++)
                if (row[r] == known[j]) total += value[r], met |= 1ull << r;
            id[j] = known[j], weight[j] = total / (seen + 1);
        }
        for (int r = 0; r < k; r++) {
            id[k + r] = row[r];
            weight[k + r] = (met >> r & 1) ? 0 : value[r] / (seen + 1);
        }
        for (int filled = 0, next = 0; next < 2 * k; next++) { /* stable insertion */
            if (filled == k && !(weight[next] > mean[k - 1])) continue;
            int place = filled < k ? filled++ : k - 1;
            for (; place > 0 && weight[next] > mean[place - 1]; place--)
                mean[place] = mean[place - 1], known[place] = known[place - 1];
            mean[place] = weight[next], known[place] = weight[next] > 0 ? id[next] : -1;
        }
    }
}
