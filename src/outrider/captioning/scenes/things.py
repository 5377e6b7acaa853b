"""The content of a drawn scene: the ground truth of captions, and its vocabulary."""

from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
COLORS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "pink")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
BACKGROUNDS = ("white", "grey", "brown")
RELATIONS = ("above", "below", "left of", "right of")
"""Position of the first of two things relative to the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One thing in a scene."""

    shape: str
    color: str
    size: str
    texture: str = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneTruth:
    """The complete content of a scene.

    Attributes:
        things: the things in the order in which captions name them.
        relation: position of the first thing relative to the second; empty for a single thing.
        background: color of the background.
    """

    things: tuple[Thing, ...]
    relation: str = ""
    background: str = "white"
