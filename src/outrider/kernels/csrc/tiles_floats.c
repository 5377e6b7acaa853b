/* Tiles of floating-point weights. */
#include "tiling.h"

#define FLOAT32_TILE(w, x, panel, MR, NR, out) FLOATS_OF(FLOAT32, w, x, panel, MR, NR, out)
#define BFLOAT16_TILE(w, x, panel, MR, NR, out) FLOATS_OF(BFLOAT16, w, x, panel, MR, NR, out)
#define FLOAT16_TILE(w, x, panel, MR, NR, out) FLOATS_OF(FLOAT16, w, x, panel, MR, NR, out)

TILES_OF(float32, FLOAT32_TILE)
TILES_OF(float16, FLOAT16_TILE)
TILES_OF(bfloat16, BFLOAT16_TILE)
