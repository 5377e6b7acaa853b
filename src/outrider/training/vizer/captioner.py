"""A vision-language model under training: what it sees, what it says, and LoRA on its words.

The vision encoder, the projector, the embeddings and the head are never trained. LoRA lies on the
attention of the text stack alone; with it switched off, the model is the base, bit for bit.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from outrider.core.errors import CheckpointError, MissingExtraError
from outrider.core.types import ImagePrompt, Prompt
from outrider.models.checkpoints.checkpoint import open_checkpoint
from outrider.models.vision.encoder import TransformersVisionEncoder
from outrider.models.vision.loading import shows_images
from outrider.models.vision.processor import ImageProcessor
from outrider.training.vizer.config import VizerConfig

_PROJECTORS = ("connector", "multi_modal_projector", "visual.merger", "vision_projection")
"""What stands between image features and words, by the names that `transformers` gives it."""

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Some images as the model has seen them.

    Attributes:
        prompts: the question about each, with the image in it.
        features: `[n, features]` what the projector was given, averaged over patches.
    """

    prompts: list[Prompt]
    features: Float[Tensor, "n features"]


@dataclass(frozen=True, slots=True)
class CaptionStates:
    """Captions read with their prompts.

    Attributes:
        states: `[n, hidden]` last hidden states, averaged over the captions' tokens.
        before: `[tokens, hidden]` those at every place whose next token is the caption's or its
            end, caption after caption (see `TrainableCaptioner.logits`).
    """

    states: Float[Tensor, "n hidden"]
    before: Float[Tensor, "tokens hidden"]


class TrainableCaptioner:
    """An image-text model of `transformers` with LoRA on its text stack.

    Args:
        model: the model, in float32.
        pictures: its processor.
        config: rank, question and the like.
        name: how errors call it.

    Raises:
        CheckpointError: a model whose text stack or projector is not found.
        MissingExtraError: peft or pillow is not installed.
    """

    def __init__(
        self, model: Any, image_processor: ImageProcessor, config: VizerConfig, *, name: str
    ) -> None:
        self.config, self.image_processor = config, image_processor
        model.requires_grad_(False)
        self.vision_encoder = TransformersVisionEncoder(model, image_processor, name=name)
        self.base = model
        self._stack: Any = self.vision_encoder.stack
        self._projector = _projector(model, name)
        self.adapted: Any = _with_lora(model, _targets(model, self._stack, name), config)
        self.adapted.eval()
        self.ends = _ends(model, image_processor, name)

    @classmethod
    def load(cls, folder: Path, config: VizerConfig, device: torch.device) -> "TrainableCaptioner":
        """Load a checkpoint. Raises what the class does, and `CheckpointError` for a bad one."""
        from outrider.models.transformers.pretrained import load_pretrained

        name = folder.name
        if not shows_images(open_checkpoint(folder)):
            raise CheckpointError(
                f"{folder} has no vision part", hint="Give an image-text model, such as tiny-vision"
            )
        model, _ = load_pretrained(
            folder, name=name, dtype=torch.float32, device=device, trust_remote_code=False
        )
        return cls(model, ImageProcessor.load(folder, model.config, name=name), config, name=name)

    # -- what is trained ------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._stack.get_input_embeddings().weight.device

    @property
    def hidden_size(self) -> int:
        """Width of the text stack."""
        return int(self._stack.get_input_embeddings().weight.shape[1])

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters of LoRA, by name."""
        return {n: p for n, p in self.adapted.named_parameters() if p.requires_grad}

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Inside, LoRA is switched off."""
        with self.adapted.disable_adapter():
            yield

    @contextmanager
    def dropping_out(self) -> Iterator[None]:
        """Inside, LoRA's dropout is on; what the base has of its own never is."""
        named = self.adapted.named_modules()
        drops = [module for name, module in named if "lora_dropout" in name]
        for module in drops:
            module.train()
        try:
            yield
        finally:
            for module in drops:
                module.eval()

    def save(self, folder: Path) -> None:
        """Write the adapter in peft's format."""
        # Left to itself, peft asks the hub whether the embeddings have changed.
        self.adapted.save_pretrained(str(folder), save_embedding_layers=False)

    # -- seeing -----------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluation(self, images: Sequence[Any]) -> ImageBatch:
        """See RGB images; those of one size are encoded together."""
        prompts: list[Prompt | None] = [None] * len(images)
        features: list[Tensor | None] = [None] * len(images)
        for rows in _by_size(images):
            with _given_to(self._projector) as seen:
                found = self.vision_encoder.views([self._asked(images[i]) for i in rows])
            means = torch.cat([s.reshape(-1, s.shape[-1]) for s in seen])
            means = means.reshape(len(rows), -1, means.shape[-1]).mean(dim=1)
            for i, prompt, mean in zip(rows, found, means, strict=True):
                prompts[i], features[i] = prompt, mean.float()
        return ImageBatch(
            [p for p in prompts if p is not None],
            torch.stack([f for f in features if f is not None]),
        )

    def _asked(self, image: Any) -> ImagePrompt:
        parts = [{"type": "image"}, {"type": "text", "text": self.config.question}]
        return ImagePrompt(messages=({"role": "user", "content": parts},), images=(image,))

    @cached_property
    def question(self) -> Prompt:
        """The question with nothing to see: what captions are read behind as mere text."""
        message = {"role": "user", "content": [{"type": "text", "text": self.config.question}]}
        [prompt] = self.vision_encoder.views([ImagePrompt(messages=(message,), images=())])
        return prompt

    # -- saying -----------------------------------------------------------------------------------

    @torch.no_grad()
    def write(
        self, prompts: Sequence[Prompt], *, temperature: float = 0.0, seed: int = 0
    ) -> list[list[int]]:
        """Captions, greedy or sampled: ids without the token that ends them."""
        draw = torch.Generator(device="cpu").manual_seed(seed)
        inputs, mask, places = self._left_padded(prompts)
        rows: list[list[int]] = [[] for _ in prompts]
        running = torch.ones(len(prompts), dtype=torch.bool)
        cache = None
        for _ in range(self.config.longest):
            out = self._stack(
                inputs_embeds=inputs,
                attention_mask=mask,
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
            )
            cache = out.past_key_values
            chosen = _choose(self._head(out.last_hidden_state[:, -1]).cpu(), temperature, draw)
            for i in running.nonzero().flatten().tolist():
                if int(chosen[i]) in self.ends:
                    running[i] = False
                else:
                    rows[i].append(int(chosen[i]))
            if not running.any():
                break
            inputs = self._embed(chosen)[:, None]
            mask = torch.cat((mask, mask.new_ones(len(mask), 1)), dim=1)
            places = places[..., -1:] + 1
        return rows

    def read(self, prompts: Sequence[Prompt], captions: Sequence[Sequence[int]]) -> CaptionStates:
        """Read captions behind their prompts; differentiable as far as LoRA goes.

        A caption without tokens is read as its end alone.
        """
        rows = [list(caption) or [self.end] for caption in captions]
        embeddings, places, starts = [], [], []
        for prompt, ids in zip(prompts, rows, strict=True):
            given = self._given(prompt)
            embeddings.append(torch.cat((given, self._embed(torch.tensor(ids)))))
            places.append(_places(prompt, len(ids)))
            starts.append(len(given))
        out = self._stack(
            inputs_embeds=pad_sequence(embeddings, batch_first=True),
            position_ids=_stacked(places).to(self.device),
            use_cache=False,
        ).last_hidden_state
        spans = list(zip(starts, (len(ids) for ids in rows), strict=True))
        states = [out[i, s : s + n].mean(dim=0) for i, (s, n) in enumerate(spans)]
        before = [out[i, s - 1 : s + n] for i, (s, n) in enumerate(spans)]
        return CaptionStates(torch.stack(states), torch.cat(before))

    def logits(self, caption_states: CaptionStates) -> Float[Tensor, "tokens vocab"]:
        """What comes next, at every place that `CaptionStates.before` is of."""
        return self._head(caption_states.before)

    def decode(self, captions: Sequence[Sequence[int]]) -> list[str]:
        """Captions as text."""
        tokenizer = self.image_processor.processor.tokenizer
        return [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in captions]

    def encode(self, texts: Sequence[str], *, cut: bool = True) -> list[list[int]]:
        """Captions as ids, cut at the longest unless they are to be whole."""
        tokenizer = self.image_processor.processor.tokenizer
        longest = self.config.longest if cut else None
        return [tokenizer.encode(t, add_special_tokens=False)[:longest] for t in texts]

    @property
    def end(self) -> int:
        """The token that ends a caption; of several the last one, which chat models close with."""
        return max(self.ends)

    def _head(self, states: Tensor) -> Tensor:
        return self.base.get_output_embeddings()(states).float()

    def _embed(self, ids: Tensor) -> Tensor:
        return self._stack.get_input_embeddings()(ids.to(self.device))

    def _given(self, prompt: Prompt) -> Tensor:
        """`[length, hidden]` what the text stack reads of a prompt."""
        if prompt.embeddings is not None:
            return prompt.embeddings.to(self.device)
        return self._embed(torch.tensor(prompt.token_ids))

    def _left_padded(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor, Tensor]:
        """Prompts that end together: embeddings, mask and positions."""
        given = [self._given(prompt) for prompt in prompts]
        longest = max(len(g) for g in given)
        inputs = torch.stack([nn.functional.pad(g, (0, 0, longest - len(g), 0)) for g in given])
        mask = torch.zeros(len(given), longest, dtype=torch.long, device=self.device)
        for i, g in enumerate(given):
            mask[i, longest - len(g) :] = 1
        places = [_places(p, 0) for p in prompts]
        padded = [nn.functional.pad(p, (longest - p.shape[-1], 0)) for p in places]
        return inputs, mask, _stacked(padded).to(self.device)


def _with_lora(model: Any, targets: list[str], config: VizerConfig) -> Any:
    """`model`, its `targets` wrapped in LoRA, which begins as nothing."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtraError("peft", "vision") from error
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks by a name that is going
        torch.manual_seed(config.seed)
        return get_peft_model(model, lora)


@contextmanager
def _given_to(module: nn.Module) -> Iterator[list[Tensor]]:
    """What `module` is given inside, call by call."""
    seen: list[Tensor] = []

    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    hook = module.register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


def _choose(logits: Tensor, temperature: float, draw: torch.Generator) -> Tensor:
    if not temperature:
        return logits.argmax(dim=-1)
    probs = (logits / temperature).softmax(dim=-1)
    return torch.multinomial(probs, 1, generator=draw)[:, 0]


def _places(prompt: Prompt, more: int) -> Tensor:
    """Positions of a prompt and `more` tokens after it: `[length]`, or `[3, length]`."""
    if prompt.axes is None:
        return torch.arange(len(prompt) + more)
    axes = torch.tensor(prompt.axes)
    return torch.cat((axes, axes[:, -1:] + 1 + torch.arange(more)), dim=1)


def _stacked(places: Sequence[Tensor]) -> Tensor:
    """`[n, length]` or `[3, n, length]`, padded at the end."""
    longest = max(p.shape[-1] for p in places)
    padded = [nn.functional.pad(p, (0, longest - p.shape[-1])) for p in places]
    return torch.stack(padded, dim=-2)


def _by_size(images: Sequence[Any]) -> list[list[int]]:
    groups: dict[Any, list[int]] = {}
    for i, image in enumerate(images):
        groups.setdefault(image.size, []).append(i)
    return list(groups.values())


def _ends(model: Any, image_processor: ImageProcessor, name: str) -> frozenset[int]:
    found = model.generation_config.eos_token_id
    if found is None:
        found = image_processor.processor.tokenizer.eos_token_id
    if found is None:
        raise CheckpointError(
            f"{name} names no token that ends a caption",
            hint="Write eos_token_id into its generation_config.json",
        )
    return frozenset([found] if isinstance(found, int) else found)


def _projector(model: Any, name: str) -> nn.Module:
    for path in _PROJECTORS:
        for owner in (model, model.base_model):
            try:
                return owner.get_submodule(path)
            except AttributeError:
                continue
    raise CheckpointError(
        f"no projector between image features and words was found in {name}",
        hint=f"Known names: {', '.join(_PROJECTORS)}",
    )


def _targets(model: Any, stack: nn.Module, name: str) -> list[str]:
    """Names of the attention projections of the text stack."""
    inside = {id(module) for module in stack.modules()}
    found = [
        path
        for path, module in model.named_modules()
        if id(module) in inside and path.rsplit(".", 1)[-1] in _PROJECTIONS
    ]
    if not found:
        raise CheckpointError(
            f"the text stack of {name} has no attention projections that LoRA is known to fit",
            hint=f"Known names: {', '.join(_PROJECTIONS)}",
        )
    return found
