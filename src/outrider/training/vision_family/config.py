"""The configuration of a vision-language family's training, read from a TOML file."""

from dataclasses import dataclass, field
from pathlib import Path

from outrider.core.errors import OptionError
from outrider.training.core.config import Stage, read_table


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerShape:
    """The shape of one transformer encoder for images or texts."""

    hidden_size: int
    layers: int
    heads: int
    ffn_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Manners:
    """Weights of vague, partial and exact sentences in a stage."""

    vague: float
    partial: float
    exact: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSet:
    """A tar of images and the JSON lines that describe them, relative to the data directory.

    `text` is the field that holds the caption, `weight` the set's share of the training images.
    Records that do not fulfill `only` (such as `split=train`, `label=true`) are left out. One
    record in `held_out` is never trained on (0: none).
    """

    name: str
    images: str
    records: str
    text: str = "caption"
    only: str = ""
    weight: float = 1.0
    held_out: int = 10
    licence: str = ""
    origin: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionFamilyConfig:
    """All options of `outrider train vision-family`.

    Attributes:
        language: the family that provides the language model (its target) and the draft model; a
            name or a folder.
        vision_encoder: shape of the vision encoder.
        reader: the text encoder for its contrastive training; not exported.
        scorer: image and text encoder of the independent CLIP that captions are scored with.
        contrast, scoring: contrastive training of vision encoder and scorer.
        see: the stage that teaches the captioner image content, with exact sentences.
        speak: the stage that teaches it the style of the base model, which training can improve.
        draft: the stage that trains the draft model on captions without images.
        question: the question for each image.
        scenes: share of drawn scenes among the training images.
        blind: share of the last stage's examples without image features, for guidance.
    """

    name: str
    language: str
    vision_encoder: TowerShape
    reader: TowerShape
    scorer: TowerShape
    contrast: Stage
    scoring: Stage
    see: Stage
    speak: Stage
    draft: Stage
    read_manner: Manners
    see_manner: Manners
    speak_manner: Manners
    sets: tuple[ImageSet, ...] = field(default=())
    scenes: float = 0.8
    blind: float = 0.15
    question: str = "Describe the image in one sentence."
    image_size: int = 64
    patch_size: int = 8
    shuffle: int = 2
    projection: int = 96
    out: str = "runs/vision-family"
    data: str | None = None
    seed: int = 1
    threads: int = 0
    checkpoint_minutes: float = 3.0
    evaluate_minutes: float = 4.0

    def __post_init__(self) -> None:
        side = self.image_size // self.patch_size
        if self.image_size % self.patch_size or side % self.shuffle:
            raise OptionError(
                f"image_size {self.image_size} is not divisible by patch_size {self.patch_size} "
                f"times shuffle {self.shuffle}",
                hint="Give an image_size that is divisible",
            )

    @property
    def image_tokens(self) -> int:
        """Number of tokens of an image."""
        return (self.image_size // self.patch_size // self.shuffle) ** 2


def load_vision_config(path: Path) -> VisionFamilyConfig:
    """Read the configuration. Raises `OptionError` like `read_table`."""
    return read_table(path, VisionFamilyConfig)
