/* Products of whole tiles (Intel AMX), used where the processor has them; see `amx.c`. */
#ifndef OUTRIDER_AMX_H
#define OUTRIDER_AMX_H

#include "matmul.h"

/* Compilers that know the instructions have this header. */
#if defined(__x86_64__) && defined(__linux__) && defined(__AVX512BW__) && defined(__has_include) && \
    !defined(WITHOUT_AMX)
#if __has_include(<amxtileintrin.h>)
#define HAS_AMX 1
#endif
#endif

enum { SIDE = AMX_SIDE, TILE_BYTES = 1024 }; /* rows of a tile, and bytes of 16 rows */

#if HAS_AMX
#define WITH_AMX __attribute__((target("amx-tile,amx-int8,amx-bf16")))

/* Shapes of the eight tile registers, as the processor reads them. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} Shapes;

/* Sums in registers 0 to 3, rows of `width` bytes in 4 and 5, weights in 6 and 7. */
WITH_AMX static inline void begin_tiles(int width) {
    Shapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shapes.rows[i] = (uint8_t)(i < 6 ? SIDE : width / 4);
        shapes.row_bytes[i] = (uint16_t)(i == 4 || i == 5 ? width : 64);
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(shapes));
}

/* The instructions; registers are numbers. Written as text, since compilers move plain accesses to
 * memory across their own functions for these instructions. */
#define LOAD_TILE(T, FROM, STRIDE)                                                               \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #T ::"r"(FROM), "r"((int64_t)(STRIDE)) : "memory")
#define STORE_TILE(T, TO, STRIDE)                                                                \
    __asm__ volatile("tilestored %%tmm" #T ", (%0,%1,1)" ::"r"(TO), "r"((int64_t)(STRIDE))       \
                     : "memory")
#define CLEAR_TILE(T) __asm__ volatile("tilezero %tmm" #T)
/* Adds the products of the signed bytes of rows A and weights B, or of their numbers in bfloat16. */
#define DOT_TILES(T, A, B) __asm__ volatile("tdpbssd %tmm" #B ", %tmm" #A ", %tmm" #T)
#define DOT_BRIEFS(T, A, B) __asm__ volatile("tdpbf16ps %tmm" #B ", %tmm" #A ", %tmm" #T)
#define END_TILES() __asm__ volatile("tilerelease")
#endif

#endif
