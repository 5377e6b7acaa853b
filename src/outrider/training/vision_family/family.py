"""`outrider train vision-family`: trains a captioner with its draft model, and an independent
scorer, from drawn scenes and published images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from outrider.captioning.scenes.phrases import Detail, Manner, caption
from outrider.captioning.scenes.scenes import Scenes
from outrider.core.errors import OptionError
from outrider.training.core.loop import StopSignal
from outrider.training.core.state import load_checkpoint, only_run, read_json, write_json
from outrider.training.vision_family.captioner import (
    Spelling,
    scene_figures,
    train_captioner,
    train_draft,
    write_captions,
)
from outrider.training.vision_family.card import write_card
from outrider.training.vision_family.config import Manners, VisionFamilyConfig, load_vision_config
from outrider.training.vision_family.contrast import TwoEncoders, train_contrast
from outrider.training.vision_family.models import (
    LONGEST_SENTENCE,
    MeanVisionEncoder,
    Reader,
    build_captioner,
    build_scorer,
    caption_tokenizer,
    export_captioner,
    export_scorer,
    language_folder,
)
from outrider.training.vision_family.pictures import LoadedSet, Pairs, load_sets, pixel_values

STAGES = ("contrast", "see", "speak", "scoring", "draft", "card")
_SEEDS = {"contrast": 1, "see": 2, "speak": 3, "scoring": 4, "draft": 5}
_HELD_OUT_SEED = 900
_CARD_SEED, _CARD_SCENES, _SAMPLES = 998, 512, 10


@dataclass(frozen=True, kw_only=True)
class VisionWorkspace:
    """The folder of a run with its configuration."""

    config: VisionFamilyConfig
    folder: Path
    data: Path
    stop: StopSignal

    @cached_property
    def tokenizer(self) -> Any:
        """The captioner's tokenizer, with image marks."""
        return caption_tokenizer(self.config)

    @cached_property
    def sets(self) -> list[LoadedSet]:
        """The published images; they are read once."""
        return load_sets(self.config, self.data)

    @cached_property
    def spelling(self) -> Spelling:
        """Token ids of the captioner's question."""
        return Spelling.of(self.tokenizer, self.config.question, self.config.image_tokens)

    def pairs(self, stage: str, manners: Manners, held_out: bool = False) -> Pairs:
        """Return the pairs of one stage; every stage has its own scenes."""
        config = self.config
        seed = config.seed * 1000 + _SEEDS[stage] + (_HELD_OUT_SEED if held_out else 0)
        return Pairs(
            Manner(vague=manners.vague, partial=manners.partial, exact=manners.exact),
            self.sets,
            [which.weight for which in config.sets],
            config.scenes,
            seed,
            config.image_size,
        )

    @property
    def where(self) -> dict[str, Any]:
        """Return the arguments of every `StageRun` of this run."""
        return {
            "folder": self.folder,
            "checkpoint_minutes": self.config.checkpoint_minutes,
            "evaluate_minutes": self.config.evaluate_minutes,
        }


def train_vision_family(
    config_path: Path,
    *,
    out: Path | None = None,
    data: Path | None = None,
    only: tuple[str, ...] = STAGES,
) -> None:
    """Train all stages, or those in `only`; an interrupted run continues where it stopped.

    Raises:
        OptionError: the configuration is wrong, or data sets are missing.
        TrainingStopped: after a stop signal, with a checkpoint written.
    """
    config = load_vision_config(config_path)
    place = data or (Path(config.data) if config.data else None)
    if place is None:
        raise OptionError("no data directory is given", hint="Give --data DIR")
    folder = out or Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    with StopSignal() as stop:
        work = VisionWorkspace(config=config, folder=folder, data=place, stop=stop)
        for name in only:
            with only_run(_stage_folder(work, name)):
                if name not in read_json(folder / f"{name}.done.json"):
                    result = _RUNS[name](work)
                    write_json(folder / f"{name}.done.json", {name: result})


def _stage_folder(work: VisionWorkspace, name: str) -> Path:
    folder = work.folder / "stages" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _vision_encoder(work: VisionWorkspace) -> tuple[Any, TwoEncoders]:
    """Build an initialized captioner, and the contrastive pair of its vision encoder and a
    reader.
    """
    config, tokenizer = work.config, work.tokenizer
    captioner = build_captioner(config, tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed + 1)
        both = TwoEncoders(
            MeanVisionEncoder(captioner.model.vision_model),
            Reader(config.reader, len(tokenizer), tokenizer.eos_token_id),
            (config.vision_encoder.hidden_size, config.reader.hidden_size),
            config.projection,
        )
    return captioner, both


def _contrast(work: VisionWorkspace) -> dict[str, Any]:
    _, both = _vision_encoder(work)

    def encode(pixels: Tensor, texts: list[str]) -> tuple[Tensor, Tensor]:
        return both(pixels, *sentences(work.tokenizer, texts))

    manners = work.config.read_manner
    pairs = work.pairs("contrast", manners), work.pairs("contrast", manners, held_out=True)
    return train_contrast(
        "contrast",
        both,
        encode,
        both.logit_scale,
        pairs,
        work.config.contrast,
        work.stop,
        **work.where,
    )


def _scoring(work: VisionWorkspace) -> dict[str, Any]:
    config, tokenizer = work.config, work.tokenizer
    scorer = build_scorer(config, len(tokenizer), tokenizer.eos_token_id)

    def encode(pixels: Tensor, texts: list[str]) -> tuple[Tensor, Tensor]:
        ids, mask = sentences(tokenizer, texts)
        out = scorer(input_ids=ids, attention_mask=mask, pixel_values=pixels)
        return out.image_embeds, out.text_embeds

    manners = config.read_manner
    pairs = work.pairs("scoring", manners), work.pairs("scoring", manners, held_out=True)
    result = train_contrast(
        "scoring",
        scorer,
        encode,
        scorer.logit_scale,
        pairs,
        config.scoring,
        work.stop,
        **work.where,
    )
    export_scorer(scorer, tokenizer, config, work.folder / "family" / "scorer")
    return result


def _see(work: VisionWorkspace) -> dict[str, Any]:
    captioner, both = _vision_encoder(work)
    load_checkpoint(work.folder / "contrast.safetensors", {"contrast": both}, {})
    return _captioner_stage(work, "see", captioner, work.config.see_manner)


def _speak(work: VisionWorkspace) -> dict[str, Any]:
    captioner = build_captioner(work.config, work.tokenizer)
    load_checkpoint(work.folder / "see.safetensors", {"see": captioner}, {})
    return _captioner_stage(work, "speak", captioner, work.config.speak_manner)


def _captioner_stage(
    work: VisionWorkspace, name: str, captioner: Any, manners: Manners
) -> dict[str, Any]:
    result = train_captioner(
        name,
        captioner,
        work.tokenizer,
        work.spelling,
        work.pairs(name, manners),
        getattr(work.config, name),
        work.stop,
        blind=work.config.blind if name == "speak" else 0.0,
        **work.where,
    )
    place = work.folder / ("family/target" if name == "speak" else f"provisional/{name}")
    export_captioner(captioner, work.tokenizer, work.config, place)
    return result


def _draft(work: VisionWorkspace) -> dict[str, Any]:
    """Continue training of the language family's draft model on captions."""
    source = language_folder(work.config, "draft")
    model: Any = LlamaForCausalLM.from_pretrained(
        source, dtype=torch.float32, trust_remote_code=False
    )
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    message = {"role": "user", "content": work.config.question}
    text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    prompt = tokenizer.encode(text, add_special_tokens=False)
    pairs = work.pairs("draft", work.config.speak_manner)
    result = train_draft(
        "draft", model, tokenizer, prompt, pairs, work.config.draft, work.stop, **work.where
    )
    folder = work.folder / "family" / "draft"
    small: Any = torch.nn.Module.to(model, torch.bfloat16)
    small.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return result


def _card(work: VisionWorkspace) -> dict[str, Any]:
    """Measure the exported captioner in bfloat16, and write the card."""
    from transformers import Idefics3ForConditionalGeneration

    folder = work.folder / "family"
    model: Any = Idefics3ForConditionalGeneration.from_pretrained(
        folder / "target", dtype=torch.float32, trust_remote_code=False
    )
    figures = scene_figures(model, work.tokenizer, work.spelling, _CARD_SCENES, seed=_CARD_SEED)
    scenes = Scenes(seed=_CARD_SEED, side=work.config.image_size)
    pixels = pixel_values([scenes.image(i) for i in range(_SAMPLES)], work.config.image_size)
    said = write_captions(model, work.tokenizer, work.spelling, pixels)
    exact = [caption(scenes.truth(i), Detail.EXACT, Random(i)) for i in range(_SAMPLES)]
    stages = {name: read_json(work.folder / f"{name}.done.json")[name] for name in STAGES[:-1]}
    write_card(work.config, folder, stages, figures, list(zip(said, exact, strict=True)))
    return figures


_RUNS: dict[str, Callable[[VisionWorkspace], dict[str, Any]]] = {
    "contrast": _contrast,
    "see": _see,
    "speak": _speak,
    "scoring": _scoring,
    "draft": _draft,
    "card": _card,
}


def sentences(tokenizer: Any, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Encode texts with the end token; return ids and their mask, `[n, longest]`."""
    end = tokenizer.eos_token_id
    ids = [
        [*tokenizer.encode(text, add_special_tokens=False)[: LONGEST_SENTENCE - 1], end]
        for text in texts
    ]
    longest = max(len(row) for row in ids)
    padded = torch.tensor([row + [end] * (longest - len(row)) for row in ids])
    lengths = torch.tensor([len(row) for row in ids])
    return padded, (torch.arange(longest)[None] < lengths[:, None]).long()
