/* Tiles of floating-point weights. */
#include "tiling.h"

#define FLOAT32_TILE(w, x, panel, MR, NR, out) tile_floats(0, w, x, panel, MR, NR, out)
#define FLOAT16_TILE(w, x, panel, MR, NR, out) tile_floats(1, w, x, panel, MR, NR, out)

TILES_OF(float32, FLOAT32_TILE)
TILES_OF(float16, FLOAT16_TILE)
TILES_OF(bfloat16, tile_bfloat16)
