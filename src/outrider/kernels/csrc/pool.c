#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

/* No pause instruction: on a virtual machine it returns the processor to the host, and a step ends
 * before the processor is available again. */
#define RELAX() __asm__ volatile("nop; nop; nop; nop" ::: "memory")

enum {
    SPINS_FOR_CHUNK = 40000, /* then yield: another thread may need the processor */
    SPINS_A_LOOK = 256,      /* spins between two reads of the clock */
    NANOSECONDS_AWAKE = 3000000,
    /* Waking a thread can take milliseconds, as long as a forward; the time between two forwards of
     * one text is about 100 microseconds. */
};

/* The ticket holds all data that a thread needs to take a chunk: 24 bits for the step, 20 for the
 * number of chunks, 20 for the next chunk. A chunk is taken by adding 1, so a late thread can only
 * get a chunk of the current step. If both numbers are equal, no chunk is left. */
#define NEXT_BITS 20
#define FIELD ((1ull << NEXT_BITS) - 1)

struct Pool {
    int size;
    pthread_t *threads;
    Task task; /* read only by threads with a chunk, so it cannot end while they run */
    _Atomic uint64_t ticket;
    _Atomic int done;
    _Atomic int team;
    _Atomic int sleeping;
    _Atomic int closing;
    pthread_mutex_t busy; /* held by the caller whose task runs */
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

typedef struct {
    Pool *pool;
    int member;
} Seat;

static int nothing_left(uint64_t ticket) {
    return (ticket & FIELD) >= ((ticket >> NEXT_BITS) & FIELD);
}

/* Runs chunks of the current step until none is left. */
static void help(Pool *pool, int member) {
    int finished = 0;
    while (!nothing_left(atomic_load_explicit(&pool->ticket, memory_order_acquire))) {
        uint64_t ticket = atomic_fetch_add_explicit(&pool->ticket, 1, memory_order_acq_rel);
        if (nothing_left(ticket)) break;
        pool->task.run(pool->task.argument, (int)(ticket >> 2 * NEXT_BITS), (int)(ticket & FIELD),
                       member);
        if (member) atomic_fetch_add_explicit(&pool->done, 1, memory_order_acq_rel);
        else finished++;
    }
    if (finished) atomic_fetch_add_explicit(&pool->done, finished, memory_order_acq_rel);
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

static int has_work(Pool *pool, int member) {
    return member < atomic_load_explicit(&pool->team, memory_order_relaxed) &&
           !nothing_left(atomic_load_explicit(&pool->ticket, memory_order_acquire));
}

/* Spins for a limited time; returns true as soon as there is work. */
static int watch(Pool *pool, int member) {
    const int64_t end = nanoseconds() + NANOSECONDS_AWAKE;
    do {
        for (int i = 0; i < SPINS_A_LOOK; i++) {
            if (has_work(pool, member)) return 1;
            RELAX();
        }
    } while (nanoseconds() < end && !atomic_load_explicit(&pool->closing, memory_order_relaxed));
    return 0;
}

static void sleep_until_work(Pool *pool, int member) {
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleeping, 1);
    while (!atomic_load(&pool->closing) &&
           (member >= atomic_load(&pool->team) || nothing_left(atomic_load(&pool->ticket))))
        pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleeping, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void *work(void *argument) {
    Seat seat = *(Seat *)argument;
    Pool *pool = seat.pool;
    free(argument);
    while (!atomic_load_explicit(&pool->closing, memory_order_relaxed)) {
        if (watch(pool, seat.member)) help(pool, seat.member);
        else sleep_until_work(pool, seat.member);
    }
    return NULL;
}

static void wake_all(Pool *pool) {
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

Pool *outrider_pool_new(int32_t threads) {
    Pool *pool = calloc(1, sizeof(Pool));
    if (!pool) return NULL;
    pool->threads = calloc(threads, sizeof(pthread_t));
    pthread_mutex_init(&pool->busy, NULL);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->size = 1;
    while (pool->threads && pool->size < threads) {
        Seat *seat = malloc(sizeof(Seat));
        if (!seat) break;
        *seat = (Seat){pool, pool->size};
        if (pthread_create(&pool->threads[pool->size], NULL, work, seat)) {
            free(seat);
            break;
        }
        pool->size++;
    }
    return pool;
}

void outrider_pool_free(Pool *pool) {
    atomic_store(&pool->closing, 1);
    wake_all(pool);
    for (int i = 1; i < pool->size; i++) pthread_join(pool->threads[i], NULL);
    free(pool->threads);
    free(pool);
}

int32_t outrider_pool_size(const Pool *pool) { return pool->size; }

static void run_alone(const Task *task) {
    for (int step = 0; step < task->steps; step++) {
        int chunks = task->chunks(task->argument, step);
        for (int chunk = 0; chunk < chunks; chunk++) task->run(task->argument, step, chunk, 0);
    }
}

static void run_step(Pool *pool, int step, int chunks) {
    if (chunks < 2) { /* too little work for other threads */
        if (chunks) pool->task.run(pool->task.argument, step, 0, 0);
        return;
    }
    atomic_store_explicit(&pool->done, 0, memory_order_relaxed);
    atomic_store(&pool->ticket,
                 (uint64_t)step << 2 * NEXT_BITS | (uint64_t)chunks << NEXT_BITS);
    if (atomic_load(&pool->sleeping)) wake_all(pool);
    help(pool, 0);
    for (int spins = 0; atomic_load_explicit(&pool->done, memory_order_acquire) < chunks; spins++) {
        if (spins < SPINS_FOR_CHUNK) RELAX();
        else sched_yield();
    }
}

void pool_run(Pool *pool, int threads, const Task *task) {
    /* If the task of another caller is running, run this one on one thread instead of waiting. */
    if (threads < 2 || pool->size < 2 || pthread_mutex_trylock(&pool->busy)) {
        run_alone(task);
        return;
    }
    pool->task = *task;
    atomic_store(&pool->team, threads);
    for (int step = 0; step < task->steps; step++)
        run_step(pool, step, task->chunks(task->argument, step));
    pthread_mutex_unlock(&pool->busy);
}
