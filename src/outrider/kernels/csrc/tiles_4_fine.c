/* Tiles of weights of 4 bits with factors of their scales. */
#include "tiling.h"

#define FINE_TILE(w, x, panel, MR, NR, out) GROUPS_OF(GROUPS4_FINE, w, x, panel, MR, NR, out)

TILES_OF(groups4_fine, FINE_TILE)
