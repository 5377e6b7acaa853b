"""Continuous speculative decoding: values with densities instead of tokens with probabilities.

`rounds.py` holds one round; `drawing.py` draws images.
"""

from typing import TYPE_CHECKING

from outrider.core.lazy import on_first_use

if TYPE_CHECKING:
    from outrider.diffusion.continuous.cspd import CSpD
    from outrider.diffusion.continuous.drawing import Drawing, draw

__all__ = ["CSpD", "Drawing", "draw"]

__getattr__ = on_first_use(__name__, {"CSpD": "cspd", "Drawing": "drawing", "draw": "drawing"})
