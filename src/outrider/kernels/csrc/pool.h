/* Threads that share the steps of a forward.
 *
  * A step is cut into chunks, and each free thread takes the next one. A thread that the system has
 * suspended does not delay the others, which take its chunks. (With a barrier for all threads, a
 * forward on a shared machine took up to 25 times as long.) */
#ifndef OUTRIDER_POOL_H
#define OUTRIDER_POOL_H

#include <stdint.h>

typedef struct Pool Pool;

/* A task in steps; a step begins when all chunks of the previous step are done. */
typedef struct {
    void *argument;
    int steps;
    int (*chunks)(const void *argument, int step);
    void (*run)(void *argument, int step, int chunk, int member);
} Task;

Pool *outrider_pool_new(int32_t threads);
void outrider_pool_free(Pool *pool);
int32_t outrider_pool_size(const Pool *pool);

/* Runs `task` on up to `threads` threads, the caller being member 0; members are numbered below
 * the pool's size. */
void pool_run(Pool *pool, int threads, const Task *task);

#endif
