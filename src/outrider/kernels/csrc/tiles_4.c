/* Tiles of weights of 4 bits. */
#include "tiling.h"

#define GROUPS4_TILE(w, x, panel, MR, NR, out) GROUPS_OF(GROUPS4, w, x, panel, MR, NR, out)
#define MINIMUM_TILE(w, x, panel, MR, NR, out) GROUPS_OF(GROUPS4_MIN, w, x, panel, MR, NR, out)

TILES_OF(groups4, GROUPS4_TILE)
TILES_OF(groups4_min, MINIMUM_TILE)
