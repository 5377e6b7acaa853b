"""Diffusion decoding: texts whose positions are written in any order, several in one forward."""

from outrider.diffusion.completing import Completable
from outrider.diffusion.denoising import Denoising
from outrider.diffusion.drawing import Drawing
from outrider.diffusion.priors import Template
from outrider.diffusion.rule import Diffusion
from outrider.diffusion.trace import Round, Trace

__all__ = ["Completable", "Denoising", "Diffusion", "Drawing", "Round", "Template", "Trace"]
