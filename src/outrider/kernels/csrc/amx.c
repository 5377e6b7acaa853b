/* Whether tiles are used. Linux gives the registers to a process that asks for them; a virtual
 * machine may announce the instructions and refuse them, so a child process tries them first. */
#include "amx.h"

int32_t amx_in_use = 0;

#if HAS_AMX

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TILE_STATES = 3 << 17 };                    /* of the registers that the system saves */
enum { ANNOUNCED = 1 << 22 | 1 << 24 | 1 << 25 };  /* bfloat16, tiles, 8 bits */
enum { ASK_FOR_STATE = 0x1023, TILE_DATA = 18 };   /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */

static int is_announced(void) {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 27)) return 0; /* no XGETBV */
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & TILE_STATES) != TILE_STATES) return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & ANNOUNCED) == ANNOUNCED;
}

/* Whether the processor announces tiles and the system permits this process to use them. */
int32_t outrider_amx_permitted(void) {
    return is_announced() && syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0;
}

/* Whether tiles are multiplied correctly. */
WITH_AMX int32_t outrider_amx_probe(void) {
    int8_t rows[SIDE][64], weights[SIDE][64];
    int32_t sums[SIDE][LANES];
    int right = outrider_amx_permitted();
    if (!right) return 0;
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < 64; j++)
            rows[i][j] = (int8_t)(i * 11 + j * 5), weights[i][j] = (int8_t)(i * 7 - j * 3);
    begin_tiles(64);
    CLEAR_TILE(0);
    LOAD_TILE(4, rows, 64);
    LOAD_TILE(6, weights, 64);
    DOT_TILES(0, 4, 6);
    STORE_TILE(0, sums, 64);
    DOT_BRIEFS(0, 4, 6);
    END_TILES();
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < LANES; j++) {
            int32_t sum = 0;
            for (int k = 0; k < 64; k++) sum += rows[i][k] * weights[k / 4][j * 4 + k % 4];
            right &= sums[i][j] == sum;
        }
    return right;
}

#else

int32_t outrider_amx_permitted(void) { return 0; }
int32_t outrider_amx_probe(void) { return 0; }

#endif

/* Uses tiles from now on, if they are permitted, or no longer; returns whether they are used. Must
 * not change while a forward runs, or between forwards over one cache. */
int32_t outrider_amx_use(int32_t use) { return amx_in_use = use && outrider_amx_permitted(); }
