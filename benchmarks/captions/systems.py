"""What writes captions in `speed`: Outrider by drafter, and `generate` of transformers."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import outrider
from outrider.engine.result import Result
from outrider.inputs.images.messages import read_image_prompt
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.transformers.pretrained import quiet
from outrider.models.vision.processor import ImageProcessor
from outrider.protocols import LanguageModel

PARTS = ("vision", "prefill", "draft", "verify", "accept")

DRAFTERS: dict[str, dict[str, Any]] = {
    "none": {"drafter": "none", "draft": "none"},
    "lookup": {"drafter": "lookup", "draft": "none"},
    "recycling": {"drafter": "recycling", "draft": "none"},
    "suffix": {"drafter": "suffix", "draft": "none"},
    "auto-free": {"drafter": "auto", "draft": "none"},
    "model": {"drafter": "model"},
    "model-3": {"drafter": "model", "num_speculative_tokens": 3},
    "auto": {"drafter": "auto"},
    "tree": {"drafter": "model", "growth": "eagle2"},
    "pyramid": {"drafter": "model", "qualifier": True},
}
"""By name what `outrider.load` is told; without `draft` the draft model is used."""

RIVALS: dict[str, dict[str, Any]] = {
    "transformers": {},
    "transformers-lookup": {"prompt_lookup_num_tokens": 10},
    "transformers-draft": {"assistant": True},
}
"""By name what `generate` is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One caption.

    Attributes:
        token_ids: with the end token, where there is one.
        text: without it.
        seconds: from the call to its return: image processing and looking included.
        parts: seconds by `PARTS`; empty where the system does not say.
        counts: of drafting; likewise.
    """

    token_ids: tuple[int, ...]
    text: str
    seconds: float
    parts: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


Writer = Callable[[Any, int], Written]
"""`(image, seed)` to a caption."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What all systems share, loaded once.

    Attributes:
        folder: of the image-text model.
        target: it, ready to run.
        qualifier: a folder, which each system reads anew; None without one. `draft` likewise.
        question: what is asked of each image.
        sampling: temperature and the like.
        dtype: as for `outrider.load`.
    """

    folder: Path
    target: LanguageModel
    qualifier: Path | None
    draft: Path | None
    question: str
    sampling: Mapping[str, Any]
    dtype: str
    threads: int

    def lacks(self, name: str) -> str | None:
        """Why a system cannot be measured; None where it can."""
        about = DRAFTERS.get(name, {}) or RIVALS.get(name, {})
        wants_draft = name in DRAFTERS and "draft" not in about
        if (wants_draft or about.get("assistant")) and self.draft is None:
            return "no draft model is given"
        if about.get("qualifier") and self.qualifier is None:
            return "no qualifier is given"
        if about and name in RIVALS and self.sampling.get("temperature"):
            return "measured at temperature 0 alone"
        return None


def ours(models: Models, name: str) -> Writer:
    """Outrider with one drafter, whose memories are empty."""
    about = dict(DRAFTERS[name])
    if "draft" not in about:
        about["draft"] = models.draft
    if about.pop("qualifier", False):
        about["qualifier"] = models.qualifier
    mode = "none" if name == "none" else "exact"
    generator = outrider.load(
        models.target,
        mode=mode,
        tokenizer=Tokenizer.load(models.folder),
        dtype=models.dtype,
        threads=models.threads,
        **about,
    )

    def write(image: Any, seed: int) -> Written:
        begun = perf_counter()
        result: Result = generator.generate(
            models.question, images=[image], seed=seed, **models.sampling
        )
        return _written(result, perf_counter() - begun)

    return write


def _written(result: Result, seconds: float) -> Written:
    counters = result.speculation.target
    return Written(
        token_ids=result.token_ids,
        text=result.text,
        seconds=seconds,
        parts={part: result.seconds.get(part, 0.0) for part in PARTS},
        counts={
            "drafted": counters.drafted,
            "accepted": counters.accepted,
            "rounds": counters.rounds,
            "undrafted_rounds": counters.undrafted_rounds,
            "forwards": counters.forwards,
            "next_tokens": counters.next_tokens,
        },
    )


def rival(models: Models, name: str) -> Writer:
    """`generate` of transformers over the same folder, in the same precision (int8: float32)."""
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoTokenizer,
    )

    kind = getattr(torch, models.dtype, torch.float32)
    kind = kind if kind.is_floating_point else torch.float32
    folder, options = str(models.folder), dict(RIVALS[name])
    with quiet():
        model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=kind).eval()
        if options.pop("assistant", False):
            draft = str(models.draft)
            drafting: Any = AutoModelForCausalLM.from_pretrained(draft, dtype=kind).eval()
            model.generation_config.bad_words_ids = None  # ids that the draft model has not
            options |= {"assistant_model": drafting}
            options |= {"tokenizer": AutoTokenizer.from_pretrained(folder)}
            options |= {"assistant_tokenizer": AutoTokenizer.from_pretrained(draft)}
    pictures = ImageProcessor.load(models.folder, AutoConfig.from_pretrained(folder), name=name)
    tokenizer = Tokenizer.load(models.folder)
    wanted = {k: v for k, v in models.sampling.items() if k != "temperature"}

    def write(image: Any, _seed: int) -> Written:
        begun = perf_counter()
        prompt = read_image_prompt(models.question, [image], tokenizer)
        assert prompt.image_prompt is not None
        inputs: dict[str, Any] = pictures.inputs(prompt.image_prompt)
        inputs["pixel_values"] = inputs["pixel_values"].to(kind)
        with torch.inference_mode(), _silent(models.threads):
            found = model.generate(**inputs, do_sample=False, **wanted, **options)
        new = tuple(found[0, inputs["input_ids"].shape[1] :].tolist())
        return Written(token_ids=new, text=tokenizer.decode(new), seconds=perf_counter() - begun)

    return write


@contextlib.contextmanager
def _silent(threads: int) -> Iterator[None]:
    """So many threads, and none of the advice that `generate` has to give."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(before)


def opened(models: Models, names: Sequence[str]) -> Iterator[tuple[str, Writer | str]]:
    """Each system with its writer, or with one line why it has none."""
    for name in names:
        if why := models.lacks(name):
            yield name, why
            continue
        try:
            made = ours(models, name) if name in DRAFTERS else rival(models, name)
        except Exception as error:  # a system that cannot run is left out, the others are not
            yield name, reason(error)
        else:
            yield name, made


def reason(error: Exception) -> str:
    """What went wrong, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
