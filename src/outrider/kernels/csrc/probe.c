/* Runs the instructions that this build was compiled for. A processor, or a virtual machine, that
 * announces some of them and refuses them ends the process; so a child process calls this. */
#include "dots.h"

/* Whether integers and floats are multiplied correctly. */
int32_t outrider_probe(void) {
    const volatile int32_t step = 5; /* so that the compiler does not compute the results */
    const volatile int32_t four = 0x04030201;
    uint16_t halves[LANES];
    i8x64 weights;
    for (int i = 0; i < LANES; i++) halves[i] = (uint16_t)(0x3800 + (step - 5)); /* 0.5 */
    for (int i = 0; i < 64; i++) weights[i] = (int8_t)(i * step % 16);
    const i32x16 sums = dot4_group((i32x16){0}, four, weights, 4);
    const f32x16 x = fma16(__builtin_convertvector(sums, f32x16), load_half(halves), splat(1.0f));
    int right = 1;
    for (int lane = 0; lane < LANES; lane++) {
        int32_t sum = 0;
        for (int i = 0; i < 4; i++) sum += (i + 1) * ((lane * 4 + i) * step % 16);
        right &= x[lane] == (float)sum * 0.5f + 1.0f;
    }
    return right;
}
