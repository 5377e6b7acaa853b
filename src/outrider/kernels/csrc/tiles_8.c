/* Tiles of weights of 8 bits. */
#include "tiling.h"

#define GROUPS8_TILE(w, x, panel, MR, NR, out) tile_groups(GROUPS8, w, x, panel, MR, NR, out)

TILES_OF(int8, tile_int8)
TILES_OF(groups8, GROUPS8_TILE)
