"""The configuration of a model family's training, read from a TOML file."""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from outrider.core.errors import OptionError, reject_unknown

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The shape of one Llama-shaped model."""

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """The three tiers of a family."""

    target: Shape
    qualifier: Shape
    draft: Shape


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A file of training or held-out records, relative to the data directory.

    `weight` is its share of the corpus before normalization; `passes` is the largest number of
    times that a record is repeated. For held-out files both are ignored and `name` is the domain.
    `licence` and `origin` (where the data set is published) are for the model card.
    """

    name: str
    file: str
    format: str
    weight: float = 1.0
    passes: float = 4.0
    licence: str = ""
    origin: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSource:
    """Held-out records from which `count` evaluation prompts of one `kind` are made."""

    name: str
    file: str
    format: str
    kind: str
    count: int
    licence: str

    def __post_init__(self) -> None:
        if self.kind not in ("story", "chat"):
            raise OptionError(f"prompts have kind {self.kind!r}", hint="Give story or chat")


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """The sources of the corpus, and how much of it is tokenized."""

    tokens: int
    sources: tuple[Source, ...]
    heldout: tuple[Source, ...]
    heldout_tokens: int = 16_384


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """Options of a byte-level BPE vocabulary, trained on a sample of the mix."""

    size: int = 4096
    sample_bytes: int = 30_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage of training.

    The learning rate falls linearly from `learning_rate` to `final_learning_rate` with the larger
    of the share of `tokens` used and the share of `max_minutes` spent. The stage ends when either
    is used up. `sample_share` is the share of rows from the target's own samples (distillation
    only). `stream` is the part of the corpus that is read, as fractions.
    """

    tokens: int
    sequence_length: int
    batch: int
    micro_batch: int
    learning_rate: float
    final_learning_rate: float = 0.0
    warmup_tokens: int = 0
    max_minutes: float | None = None
    sample_share: float = 0.0
    stream: tuple[float, ...] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.batch % self.micro_batch:
            raise OptionError(
                f"micro_batch {self.micro_batch} does not divide batch {self.batch}",
                hint="Choose a divisor of batch",
            )
        if len(self.stream) != 2 or not 0 <= self.stream[0] < self.stream[1] <= 1:
            raise OptionError(
                f"stream {list(self.stream)} is not a part of the corpus",
                hint="Give two ascending fractions, such as [0.0, 0.9]",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Number and sampling options of the target's continuations for distillation."""

    tokens: int = 500_000
    length: int = 512
    batch: int = 64
    longest_prompt: int = 128
    temperatures: tuple[float, ...] = (1.0, 0.7)
    max_minutes: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyConfig:
    """All options of `outrider train family`."""

    name: str
    models: Models
    corpus: Corpus
    target: Stage
    target_long: Stage
    distill: Stage
    distill_long: Stage
    vocabulary: Vocabulary = Vocabulary()
    sampling: Sampling = Sampling()
    prompts: tuple[PromptSource, ...] = ()
    max_position_embeddings: int = 2048
    out: str = "runs/family"
    data: str | None = None
    seed: int = 1
    device: str = "auto"
    threads: int = 0
    compile: bool = False
    checkpoint_minutes: float = 5.0
    evaluate_minutes: float = 5.0
    provisional_minutes: tuple[float, ...] = ()


def load_config(path: Path) -> FamilyConfig:
    """Read a family configuration. Raises the errors of `read_table`."""
    return read_table(path, FamilyConfig)


def read_table(path: Path, kind: type[T]) -> T:
    """Read a TOML file into the dataclass `kind`.

    Raises `OptionError` for a missing file, broken TOML, and unknown, missing or ill-typed keys.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        hint = "Give the path of a TOML file, such as one in configs"
        raise OptionError(f"no configuration at {path}", hint=hint) from error
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{path} is not valid TOML: {error}", hint="Correct that line") from error
    return _build(kind, tables, where="")


def _build(kind: Any, table: dict[str, Any], where: str) -> Any:
    """Build the dataclass `kind` from a TOML table; `where` is the table's dotted name."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    label = f"key in [{where}]" if where else "key"
    reject_unknown(label, table, fields)
    for name, field in fields.items():
        if name not in table and field.default is dataclasses.MISSING:
            raise OptionError(
                f"{label} {name!r} is missing", hint=f"Add {name} to [{where or 'the top'}]"
            )
    hints = get_type_hints(kind)
    return kind(**{key: _value(hints[key], value, where, key) for key, value in table.items()})


def _value(hint: Any, value: Any, where: str, key: str) -> Any:
    name = f"{where}.{key}" if where else key
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise OptionError(f"{name} is {value!r}", hint=f"Make [{name}] a table")
        return _build(hint, value, name)
    if hint == tuple[float, ...]:
        return tuple(float(item) for item in value)
    if hint == tuple[str, ...]:
        return tuple(_scalar(str, item, name) for item in value)
    if hint == tuple[int, ...]:
        return tuple(_scalar(int, item, name) for item in value)
    if get_origin(hint) is tuple:
        return tuple(_build(get_args(hint)[0], item, name) for item in value)
    return _scalar(hint, value, name)


def _scalar(hint: Any, value: Any, name: str) -> Any:
    if hint is bool and isinstance(value, bool):
        return value
    wanted: tuple[type, ...] = (str,)
    if hint in (float, float | None):
        wanted = (float, int)
    elif hint is int:
        wanted = (int,)
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise OptionError(
            f"{name} is {value!r}",
            hint=f"Expected {wanted[0].__name__}, got {type(value).__name__}",
        )
    return float(value) if wanted[0] is float else value
