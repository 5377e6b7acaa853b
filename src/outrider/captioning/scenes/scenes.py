"""Drawn scenes: images of a few things, with known content.

Scene `i` of a seed is always the same image: 64 x 64 pixels by default, one to three things that do
not overlap, on a plain background with a little clutter and noise.
"""

import math
from dataclasses import dataclass
from random import Random
from typing import Any

from outrider.captioning.scenes.things import (
    BACKGROUNDS,
    COLORS,
    SHAPES,
    SIZES,
    TEXTURES,
    SceneTruth,
    Thing,
)
from outrider.core.errors import MissingExtraError

SIDE = 64
"""Width and height of a scene in pixels."""

_FINE = 2
"""Factor of the drawing size; the image is then reduced, for smooth edges."""

_RADIUS = {"small": (0.095, 0.115), "large": (0.19, 0.22)}
"""Ranges of radii, as shares of the side."""

_RGB = {
    "red": (205, 30, 35),
    "green": (35, 150, 55),
    "blue": (35, 70, 205),
    "yellow": (240, 210, 40),
    "orange": (245, 135, 25),
    "purple": (130, 45, 160),
    "black": (25, 25, 25),
    "pink": (245, 140, 190),
}
_GROUND = {"white": (250, 250, 250), "grey": (165, 168, 172), "brown": (140, 100, 65)}
_PLAIN_SHARE = 0.5
_TRIES = 200


@dataclass(frozen=True, slots=True)
class Place:
    """Position of a thing: center and radius as shares of the side, y downwards."""

    x: float
    y: float
    radius: float

    def clears(self, other: "Place") -> bool:
        """Whether there is a gap between the circles of the two places."""
        return math.hypot(self.x - other.x, self.y - other.y) > self.radius + other.radius + 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenes:
    """An infinite series of scenes; equal seeds give equal series.

    Attributes:
        seed: seed of the series.
        most: largest number of things in a scene.
        side: width and height in pixels.
    """

    seed: int
    most: int = 3
    side: int = SIDE

    def truth(self, index: int) -> SceneTruth:
        """Return the content of scene `index`."""
        return self._plan(index)[0]

    def image(self, index: int) -> Any:
        """Draw scene `index` as an RGB `PIL.Image`. Raises `MissingExtraError` without pillow."""
        truth, places = self._plan(index)
        return draw(truth, places, Random(f"ink {self.seed} {index}"), self.side)

    def _plan(self, index: int) -> tuple[SceneTruth, tuple[Place, ...]]:
        random = Random(f"scene {self.seed} {index}")
        for _ in range(_TRIES):
            things = _things(random, random.randint(1, self.most))
            places = _places(random, things)
            if places is not None:
                relation = _relation(*places[:2]) if len(places) > 1 else ""
                ground = random.choice(BACKGROUNDS)
                return SceneTruth(things=things, relation=relation, background=ground), places
        raise AssertionError("no place was found for any scene")


def _things(random: Random, count: int) -> tuple[Thing, ...]:
    """Draw things that all differ in shape and color, so that each can be named."""
    shapes, colors = random.sample(SHAPES, count), random.sample(COLORS, count)
    return tuple(
        Thing(
            shape=shape,
            color=color,
            size=random.choice(SIZES),
            texture="plain" if random.random() < _PLAIN_SHARE else random.choice(TEXTURES[1:]),
        )
        for shape, color in zip(shapes, colors, strict=True)
    )


def _places(random: Random, things: tuple[Thing, ...]) -> tuple[Place, ...] | None:
    """Draw places that do not touch, the first two clearly beside or above each other; or None."""
    places: list[Place] = []
    for thing in things:
        radius = random.uniform(*_RADIUS[thing.size])
        for _ in range(20):
            x, y = (random.uniform(radius + 0.02, 0.98 - radius) for _ in range(2))
            place = Place(x, y, radius)
            if not all(place.clears(other) for other in places):
                continue
            if len(places) == 1 and not _is_clear(places[0], place):
                continue
            places.append(place)
            break
        else:
            return None
    return tuple(places)


def _is_clear(first: Place, second: Place) -> bool:
    across, down = abs(first.x - second.x), abs(first.y - second.y)
    return max(across, down) > 1.8 * min(across, down)


def _relation(first: Place, second: Place) -> str:
    if abs(first.x - second.x) > abs(first.y - second.y):
        return "left of" if first.x < second.x else "right of"
    return "above" if first.y < second.y else "below"


# -- drawing ----------------------------------------------------------------------------------


def draw(truth: SceneTruth, places: tuple[Place, ...], random: Random, side: int = SIDE) -> Any:
    """Draw the image of a scene, an RGB `PIL.Image` of `side` x `side` pixels."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingExtraError("pillow", "vision") from error
    size = side * _FINE
    picture = Image.new("RGB", (size, size), _jitter(_GROUND[truth.background], random, 8))
    pen = ImageDraw.Draw(picture)
    for _ in range(random.randint(0, 6)):
        _clutter(pen, random, size, _GROUND[truth.background])
    for thing, place in zip(truth.things, places, strict=True):
        ink = _jitter(_RGB[thing.color], random, 14)
        mask = Image.new("L", (size, size), 0)
        _shape(ImageDraw.Draw(mask), thing.shape, place, size)
        picture.paste(_fill(ink, thing.texture, size, place), (0, 0), mask)
    noise = Image.frombytes("L", (side, side), random.randbytes(side * side))
    faint = noise.point([128 + (level - 128) // 8 for level in range(256)]).convert("RGB")
    return Image.blend(picture.reduce(_FINE), faint, 0.06)


def _jitter(color: tuple[int, int, int], random: Random, by: int) -> tuple[int, int, int]:
    red, green, blue = (min(max(c + random.randint(-by, by), 0), 255) for c in color)
    return red, green, blue


def _clutter(pen: Any, random: Random, size: int, ground: tuple[int, int, int]) -> None:
    """Draw a short faint line or speck that no caption mentions."""
    x, y = random.random() * size, random.random() * size
    dx, dy = random.uniform(-0.06, 0.06) * size, random.uniform(-0.06, 0.06) * size
    pen.line((x, y, x + dx, y + dy), fill=_jitter(ground, random, 45), width=_FINE)


def _fill(ink: tuple[int, int, int], texture: str, size: int, place: Place) -> Any:
    from PIL import Image, ImageDraw

    sheet = Image.new("RGB", (size, size), ink)
    pen = ImageDraw.Draw(sheet)
    light = tuple(min(255, c // 3 + 175) for c in ink)
    step = max(place.radius * size * 0.5, 5.0)
    if texture == "striped":
        for k in range(-size, size * 2, max(round(step), 1)):
            pen.line((k, 0, k - size, size), fill=light, width=max(round(step * 0.42), 2))
    elif texture == "dotted":
        radius = max(step * 0.24, 1.5)
        rows = round(size / step) + 1
        for i in range(rows):
            for j in range(rows):
                x, y = (i + 0.5 * (j % 2)) * step, j * step
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=light)
    return sheet


def _shape(pen: Any, shape: str, place: Place, size: int) -> None:
    x, y, r = place.x * size, place.y * size, place.radius * size
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    elif shape == "square":
        h = r * 0.86
        pen.rectangle((x - h, y - h, x + h, y + h), fill=255)
    elif shape == "cross":
        w = r * 0.34
        pen.rectangle((x - w, y - r, x + w, y + r), fill=255)
        pen.rectangle((x - r, y - w, x + r, y + w), fill=255)
    else:
        pen.polygon([(x + r * dx, y + r * dy) for dx, dy in _CORNERS[shape]], fill=255)


def _ring(count: int, radii: tuple[float, ...]) -> list[tuple[float, float]]:
    """Return corners around a center, starting at the top; their distances repeat `radii`."""
    turns = [2 * math.pi * k / count for k in range(count)]
    return [
        (radii[k % len(radii)] * math.sin(turn), -radii[k % len(radii)] * math.cos(turn))
        for k, turn in enumerate(turns)
    ]


_CORNERS = {
    "triangle": _ring(3, (1.0,)),
    "diamond": _ring(4, (1.0, 0.62)),
    "star": _ring(10, (1.0, 0.42)),
}
