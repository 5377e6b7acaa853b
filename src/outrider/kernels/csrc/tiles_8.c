/* Tiles of weights of 8 bits. */
#include "tiling.h"

#define GROUPS8_TILE(w, x, panel, MR, NR, out) GROUPS_OF(GROUPS8, w, x, panel, MR, NR, out)

TILES_OF(int8, INT8_OF)
TILES_OF(groups8, GROUPS8_TILE)
