"""What runs, through which runner, and what is refused: from the tables of the runners."""

from dataclasses import dataclass

from outrider.models.checkpoints.gguf.architectures import ARCHITECTURES
from outrider.models.checkpoints.packed.reading import FORMATS
from outrider.models.llama.families import FAMILIES
from outrider.models.llama.text_stack import WRAPPERS
from outrider.models.quantization.blocks import BLOCK_FORMATS


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """An architecture that Outrider runs itself.

    Attributes:
        model_type: its name in config.json.
        called: what users call its models.
        gguf: its names in GGUF files.
    """

    model_type: str
    called: str
    gguf: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Supported:
    """All architectures and formats, by what happens to them.

    Attributes:
        native: run by Outrider, on the CPU with compiled kernels.
        image_text: their text part is run by Outrider, their vision encoder by `transformers`.
        transformers: run through `transformers`.
        refused: `model_type` -> the reason.
        quantised: methods of quantised folders that are read.
        blocks: formats of weights in GGUF files that are read.
    """

    native: tuple[Native, ...]
    image_text: tuple[str, ...]
    transformers: tuple[str, ...]
    refused: dict[str, str]
    quantised: tuple[str, ...]
    blocks: tuple[str, ...]


def supported() -> Supported:
    """Return what runs; takes seconds, since `transformers` is imported."""
    from outrider.models.transformers.supported import transformers_models

    theirs = {
        kind: reason
        for kind, reason in transformers_models().items()
        if kind not in FAMILIES and kind not in WRAPPERS
    }
    return Supported(
        native=natives(),
        image_text=tuple(sorted(WRAPPERS)),
        transformers=tuple(kind for kind, reason in theirs.items() if reason is None),
        refused={kind: reason for kind, reason in theirs.items() if reason is not None},
        quantised=tuple(FORMATS),
        blocks=tuple(sorted(known.name for known in BLOCK_FORMATS.values())),
    )


def natives() -> tuple[Native, ...]:
    """Return the architectures that Outrider runs itself."""
    return tuple(
        Native(
            model_type=kind,
            called=family.called,
            gguf=tuple(
                name
                for name, known in ARCHITECTURES.items()
                if kind in (known.model_type, *known.also)
            ),
        )
        for kind, family in FAMILIES.items()
    )
