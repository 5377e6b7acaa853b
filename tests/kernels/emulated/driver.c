/* Replays recorded calls of the kernels, which `images.py` writes: on another processor, or under
 * an emulator of one. Usage: driver CALL... writes CALL.out for each file CALL.
 *
 * A file is a header, the places of pointers, the places of results, and an image of memory in
 * which pointers are offsets. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "choose.h"
#include "model.h"

enum { ARGUMENTS = 12, POOL_THREADS = 4 };
enum { PLAIN, POINTER, POOL }; /* kinds of arguments */

typedef struct {
    int64_t function, returns, pointers, results, bytes;
    int64_t kinds[ARGUMENTS], values[ARGUMENTS];
} Header;

void outrider_embed(void);
void outrider_write(void);
void outrider_repack(void);
void outrider_topk(void);

/* The order of `RECORDED` in `images.py`. */
static void (*const FUNCTIONS[])(void) = {
    (void (*)(void))outrider_forward, outrider_embed, outrider_write, outrider_repack, outrider_topk,
};

/* All arguments are integers or pointers, of which a callee reads the lower part. */
typedef int32_t (*Call)(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                        int64_t, int64_t, int64_t, int64_t);

static void *read_numbers(FILE *file, int64_t count, int64_t size) {
    void *numbers = aligned_alloc(64, (count * size + 64) / 64 * 64);
    if (!numbers || fread(numbers, size, count, file) != (size_t)count) {
        fprintf(stderr, "a call is cut short\n");
        exit(1);
    }
    return numbers;
}

static void replay(const char *name, Pool *pool) {
    char path[4096];
    FILE *file = fopen(name, "rb");
    if (!file) perror(name), exit(1);
    Header *head = read_numbers(file, 1, sizeof(Header));
    int64_t *pointers = read_numbers(file, head->pointers, sizeof(int64_t));
    int64_t *results = read_numbers(file, head->results, 2 * sizeof(int64_t));
    char *image = read_numbers(file, head->bytes, 1);
    fclose(file);
    for (int64_t i = 0; i < head->pointers; i++) {
        int64_t *place = (int64_t *)(image + pointers[i]);
        *place += (int64_t)image;
    }
    int64_t *v = head->values;
    for (int i = 0; i < ARGUMENTS; i++) {
        if (head->kinds[i] == POINTER) v[i] += (int64_t)image;
        if (head->kinds[i] == POOL) v[i] = (int64_t)pool;
    }
    const Call call = (Call)FUNCTIONS[head->function];
    const int32_t returned =
        call(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11]);
    snprintf(path, sizeof path, "%s.out", name);
    file = fopen(path, "wb");
    if (!file) perror(path), exit(1);
    const int32_t answer = head->returns ? returned : 0;
    fwrite(&answer, sizeof answer, 1, file);
    for (int64_t i = 0; i < head->results; i++)
        fwrite(image + results[2 * i], 1, results[2 * i + 1], file);
    if (fclose(file)) perror(path), exit(1);
    free(head), free(pointers), free(results), free(image);
}

int main(int count, char **names) {
    Pool *pool = outrider_pool_new(POOL_THREADS);
    for (int i = 1; i < count; i++) replay(names[i], pool);
    outrider_pool_free(pool);
    return 0;
}
