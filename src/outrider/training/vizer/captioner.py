"""A vision-language model under training: image features, captions, and LoRA on the text stack.

The vision encoder, the projector, the embeddings and the head are never trained. LoRA is applied
only to the attention of the text stack. With LoRA switched off, the model equals the base bit for
bit.
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
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.vision.encoder import TransformersVisionEncoder
from outrider.models.vision.loading import shows_images
from outrider.models.vision.processor import ImageProcessor
from outrider.training.vizer.config import VizerConfig

_PROJECTORS = ("connector", "multi_modal_projector", "visual.merger", "vision_projection")
"""Names in `transformers` of the module between image features and the text stack."""

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Images encoded by the model.

    Attributes:
        prompts: the question about each image, with the image in it.
        features: `[n, features]` inputs of the projector, averaged over patches.
    """

    prompts: list[Prompt]
    features: Float[Tensor, "n features"]


@dataclass(frozen=True, slots=True)
class CaptionStates:
    """Hidden states of captions that were read with their prompts.

    Attributes:
        states: `[n, hidden]` last hidden states, averaged over the captions' tokens.
        before: `[tokens, hidden]` hidden states that predict the tokens of the captions and their
            ends, one caption after the other (see `TrainableCaptioner.logits`).
    """

    states: Float[Tensor, "n hidden"]
    before: Float[Tensor, "tokens hidden"]


class TrainableCaptioner:
    """An image-text model of `transformers` with LoRA on its text stack.

    Args:
        model: the model, in float32.
        pictures: its processor.
        config: settings such as rank and question.
        name: its name in error messages.

    Raises:
        CheckpointError: the text stack or the projector of the model is not found.
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
        """Load a checkpoint. Raises the errors of the class, and `CheckpointError` for a bad
        checkpoint.
        """
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

    # -- parameters -----------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self._stack.get_input_embeddings().weight.device

    @property
    def hidden_size(self) -> int:
        """Size of the hidden states of the text stack."""
        return int(self._stack.get_input_embeddings().weight.shape[1])

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters of LoRA by name."""
        return {n: p for n, p in self.adapted.named_parameters() if p.requires_grad}

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Context manager: switch LoRA off."""
        with self.adapted.disable_adapter():
            yield

    @contextmanager
    def dropping_out(self) -> Iterator[None]:
        """Context manager: switch LoRA's dropout on; the base model's own dropout stays off."""
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
        # By default, peft queries the hub for changes of the embeddings.
        self.adapted.save_pretrained(str(folder), save_embedding_layers=False)

    # -- images -----------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluation(self, images: Sequence[Any]) -> ImageBatch:
        """Encode RGB images; those of equal size are encoded together."""
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
        """Return the question without an image, for reading captions as plain text."""
        message = {"role": "user", "content": [{"type": "text", "text": self.config.question}]}
        [prompt] = self.vision_encoder.views([ImagePrompt(messages=(message,), images=())])
        return prompt

    # -- captions ---------------------------------------------------------------------------------

    @torch.no_grad()
    def write(
        self, prompts: Sequence[Prompt], *, temperature: float = 0.0, seed: int = 0
    ) -> list[list[int]]:
        """Write captions, greedy or sampled; return ids without the end token."""
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
        """Read captions after their prompts; differentiable with respect to LoRA.

        Of a caption without tokens only the end is read.
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
        """Return the next-token logits for the hidden states `CaptionStates.before`."""
        return self._head(caption_states.before)

    def decode(self, captions: Sequence[Sequence[int]]) -> list[str]:
        """Decode captions to text."""
        tokenizer = self.image_processor.processor.tokenizer
        return [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in captions]

    def encode(self, texts: Sequence[str], *, cut: bool = True) -> list[list[int]]:
        """Encode captions; with `cut`, to at most the longest length."""
        tokenizer = self.image_processor.processor.tokenizer
        longest = self.config.longest if cut else None
        return [tokenizer.encode(t, add_special_tokens=False)[:longest] for t in texts]

    @property
    def end(self) -> int:
        """The token that ends a caption; the last one if there are several, as chat models use
        it.
        """
        return max(self.ends)

    def _head(self, states: Tensor) -> Tensor:
        return self.base.get_output_embeddings()(states).float()

    def _embed(self, ids: Tensor) -> Tensor:
        return self._stack.get_input_embeddings()(ids.to(self.device))

    def _given(self, prompt: Prompt) -> Tensor:
        """Return the inputs of the text stack for a prompt, `[length, hidden]`."""
        if prompt.embeddings is not None:
            return prompt.embeddings.to(self.device)
        return self._embed(torch.tensor(prompt.token_ids))

    def _left_padded(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor, Tensor]:
        """Pad prompts on the left; return embeddings, mask and positions."""
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
    """Wrap `targets` of `model` in LoRA, which is initialized to no change."""
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
        warnings.simplefilter("ignore", FutureWarning)  # peft uses a deprecated name
        torch.manual_seed(config.seed)
        return get_peft_model(model, lora)


@contextmanager
def _given_to(module: nn.Module) -> Iterator[list[Tensor]]:
    """Context manager: collect the inputs of `module`, call by call."""
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
    """Return the positions of a prompt and `more` tokens after it: `[length]`, or `[3, length]`."""
    if prompt.axes is None:
        return torch.arange(len(prompt) + more)
    axes = torch.tensor(prompt.axes)
    return torch.cat((axes, axes[:, -1:] + 1 + torch.arange(more)), dim=1)


def _stacked(places: Sequence[Tensor]) -> Tensor:
    """Stack positions to `[n, length]` or `[3, n, length]`, padded at the end."""
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
            f"{name} defines no token that ends a caption",
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
    """Return the names of the attention projections of the text stack."""
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
