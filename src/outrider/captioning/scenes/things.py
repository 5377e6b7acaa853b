"""What a drawn scene holds: the ground truth of its captions, and the words for it."""

from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
COLORS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "pink")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
BACKGROUNDS = ("white", "grey", "brown")
RELATIONS = ("above", "below", "left of", "right of")
"""Where the first of two things is, seen from the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One thing in a scene."""

    shape: str
    color: str
    size: str
    texture: str = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneTruth:
    """All there is to say about a scene.

    Attributes:
        things: in the order in which captions name them.
        relation: where the first thing is, seen from the second; empty for a single thing.
        background: its colour.
    """

    things: tuple[Thing, ...]
    relation: str = ""
    background: str = "white"
