/* Tiles of weights of 6 bits. */
#include "tiling.h"

TILES_OF(groups6, SIX_OF)
