"""Vision encoder from `transformers`: what an image-text model hands to its language model is a
prompt.

The model's own forward runs up to its language model and stops there. What that is given (the
embeddings with the features of the images in their places, and positions) is read by whatever
runs the text stack. Models whose text stacks need more than that are refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outrider.core.errors import CheckpointError, OptionError
from outrider.core.types import ImagePrompt, Prompt
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.transformers.pretrained import quiet, reading
from outrider.models.vision.processor import ImageProcessor, Inputs

if TYPE_CHECKING:
    import transformers

_MOST_NUMBERS = 1 << 23
"""Numbers of pixels that one forward reads, unless one prompt has more: 32 MiB in float32."""

_BY_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
"""Inputs of one number a token; the others have their images or patches along dimension 0."""

_UNDERSTOOD = {"inputs_embeds", "position_ids", "attention_mask", "cache_position"}
"""What a text stack may be given: prompts can say the first two, the others follow from them."""

_HINT = "Use an image-text model with a plain causal text stack, such as SmolVLM, Qwen2-VL or LLaVA"


class TransformersVisionEncoder:
    """`protocols.VisionEncoder` over an image-text model of `transformers`.

    Args:
        model: the model, with a head or without, with all layers of its text stack or none.
        pictures: its processor.
        name: how errors call it.

    Raises:
        CheckpointError: its text stack needs more than embeddings and positions, or what its
            processor makes does not fit it. Tried with a small image.
    """

    def __init__(self, model: Any, image_processor: ImageProcessor, *, name: str) -> None:
        self.model = model.eval()
        self.image_processor = image_processor
        self.name = name
        self._lock = Lock()  # what one thread catches is not for another
        self._base = getattr(model, "base_model", model)
        self.stack = _text_stack(self._base, name)
        self._image_id = _image_id(model.config, name)
        self.image_token_ids = _placeholders(model.config)
        self._try()

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        name: str | None = None,
        trust_remote_code: bool = False,
    ) -> "TransformersVisionEncoder":
        """Load what sees: the vision tower, the projector and the embeddings, no layer of text.

        Raises:
            CheckpointError: it can not be read, or not be used (see the class).
        """
        name = name or checkpoint.path.name
        model = _load_without_layers(checkpoint.path, name, dtype, device, trust_remote_code)
        image_processor = ImageProcessor.load(
            checkpoint.path, model.config, name=name, trust_remote_code=trust_remote_code
        )
        return cls(model, image_processor, name=name)

    @property
    def num_parameters(self) -> int:
        """Numbers in all weights, tied ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    # -- views --------------------------------------------------------------------------------

    def views(self, image_prompt: Sequence[ImagePrompt]) -> list[Prompt]:
        """What the model reads of each. The same images with the same question are seen once,
        blank or not; those of several prompts are encoded together where their shapes allow it.

        Raises:
            OptionError: a question that the template can not spell, images that the processor
                refuses, or a question that ends with an image.
            CheckpointError: the text stack needs more than embeddings and positions.
        """
        once = {_seen_as(p): p for p in image_prompt}
        inputs = [self.image_processor.inputs(p) for p in once.values()]
        for found in inputs:
            self._check_end(found)
        seen: dict[int, tuple[Tensor, Tensor | None]] = {}
        for group in _groups(inputs):
            parts = self._read([inputs[i] for i in group])
            seen.update(zip(group, parts, strict=True))
        at = {key: i for i, key in enumerate(once)}
        found = [(p, at[_seen_as(p)]) for p in image_prompt]
        return [self._prompt(inputs[i], *seen[i], blank=p.blank) for p, i in found]

    def _check_end(self, inputs: Inputs) -> None:
        if int(inputs["input_ids"][0, -1]) == self._image_id:
            raise OptionError(
                "the question ends with an image, and the last token of a prompt is read as text",
                hint="Ask something after the images",
            )

    def _prompt(
        self, inputs: Inputs, embeddings: Tensor, positions: Tensor | None, *, blank: bool
    ) -> Prompt:
        ids = inputs["input_ids"][0]
        if blank:
            embeddings = embeddings.clone()
            embeddings[(ids == self._image_id).to(embeddings.device)] = 0
        axes = None if positions is None else tuple(map(tuple, positions.tolist()))
        return Prompt(token_ids=tuple(ids.tolist()), embeddings=embeddings, axes=axes)

    # -- one forward --------------------------------------------------------------------------

    @torch.no_grad()
    def _read(self, inputs: Sequence[Inputs]) -> list[tuple[Tensor, Tensor | None]]:
        """Embeddings `[length, hidden]` and positions `[3, length]` of each prompt."""
        batch = self._batched(inputs)
        with self._lock, _caught(self._base, self.stack) as caught:
            self._base(**batch, use_cache=False)
        self._refuse_more(caught, batch["attention_mask"])
        lengths = [found["input_ids"].shape[1] for found in inputs]
        embeddings, positions = caught["inputs_embeds"], caught.get("position_ids")
        if embeddings is None or embeddings.shape[:2] != batch["input_ids"].shape:
            raise self._refusal("other rows than its tokens")
        return [
            (embeddings[i, :length].clone(), self._axes(positions, i, length))
            for i, length in enumerate(lengths)
        ]

    def _batched(self, inputs: Sequence[Inputs]) -> Inputs:
        """Several prompts as one: ids padded on the right, images one after the other."""
        length = max(found["input_ids"].shape[1] for found in inputs)
        batch: Inputs = {}
        for key, first in inputs[0].items():
            tensors = [found[key] for found in inputs]
            if key in _BY_TOKEN:
                fits = [(0, length - tensor.shape[1]) for tensor in tensors]
                tensors = [
                    torch.nn.functional.pad(tensor, fit)
                    for tensor, fit in zip(tensors, fits, strict=True)
                ]
            joined = torch.cat(tensors).to(self.model.device)
            batch[key] = joined.to(self.model.dtype) if first.is_floating_point() else joined
        return batch

    def _axes(self, positions: Tensor | None, prompt: int, length: int) -> Tensor | None:
        """Time, height and width of one prompt's tokens; None where each is its index."""
        if positions is None:
            return None
        if positions.ndim == 3 and positions.shape[0] in (3, 4):
            return positions[-3:, prompt, :length].cpu()  # a fourth row, the first, is for packing
        plain = torch.arange(length, device=positions.device)
        if positions.ndim != 2 or not torch.equal(positions[prompt, :length], plain):
            raise self._refusal(f"positions of shape {tuple(positions.shape)}")
        return None

    def _refuse_more(self, caught: Mapping[str, Any], given: Tensor) -> None:
        """Raise `CheckpointError` if the text stack is given what a prompt can not say."""
        more = [key for key, value in caught.items() if key not in _UNDERSTOOD and _holds(value)]
        if more:
            raise self._refusal(f"{more[0]} beside embeddings and positions")
        mask = caught.get("attention_mask")
        plain = mask is None or (isinstance(mask, Tensor) and mask.shape == given.shape)
        if not plain or (isinstance(mask, Tensor) and not torch.equal(mask.long(), given.long())):
            raise self._refusal("a mask of its own")

    def _refusal(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"the text stack of {self.name} ({self.model.config.model_type}) is given {what}, "
            "which a prompt can not express",
            hint=_HINT,
        )

    def _try(self) -> None:
        try:
            self.views([self.image_processor.trial])
        except CheckpointError:
            raise
        except Exception as error:  # whatever a model raises on inputs that are not its own
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{self.name} can not read what its processor makes of an image: {reason}",
                hint="Copy the processor's files of the original model into its folder",
            ) from error


def _seen_as(image_prompt: ImagePrompt) -> tuple[int, int]:
    """Equal for what looks the same but for being blank."""
    return id(image_prompt.messages), id(image_prompt.images)


def _groups(inputs: Sequence[Inputs]) -> Iterator[list[int]]:
    """Indices of prompts that one forward can read: the same inputs, equal but for their number
    along dimension 0, and not too many pixels at once."""
    groups: dict[Any, list[int]] = {}
    for i, found in enumerate(inputs):
        shapes = ((k, tuple(v.shape[1:])) for k, v in found.items() if k not in _BY_TOKEN)
        groups.setdefault(tuple(shapes), []).append(i)
    for group in groups.values():
        size = max(sum(v.numel() for v in inputs[i].values()) for i in group)
        most = max(1, _MOST_NUMBERS // size)
        yield from (group[i : i + most] for i in range(0, len(group), most))


def _holds(value: Any) -> bool:
    """Whether there is a tensor in it."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return any(_holds(part) for part in value)
    return isinstance(value, Tensor)


class _Caught(Exception):
    """Ends a forward where its language model begins."""


@contextmanager
def _caught(base: Any, stack: torch.nn.Module) -> Iterator[dict[str, Any]]:
    """What `stack` is given by a forward inside, which ends there."""
    caught: dict[str, Any] = {}

    def catch(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.update(kwargs)
        caught.update({f"argument {i}": value for i, value in enumerate(args)})
        raise _Caught

    known = getattr(base, "rope_deltas", None)
    hook = stack.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        yield caught
    except _Caught:
        pass
    finally:
        hook.remove()
        if hasattr(base, "rope_deltas"):  # a note of the last prompt, for `generate`
            base.rope_deltas = known


# -- what a model is made of ------------------------------------------------------------------


def _text_stack(base: Any, name: str) -> torch.nn.Module:
    found = (getattr(base, part, None) for part in ("language_model", "text_model"))
    stack = next((part for part in found if isinstance(part, torch.nn.Module)), None)
    if stack is None:
        raise CheckpointError(
            f"no text stack was found in {name} ({type(base).__name__})", hint=_HINT
        )
    return stack


def _image_id(config: Any, name: str) -> int:
    found = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
    if found is None:
        raise CheckpointError(f"the configuration of {name} names no image_token_id", hint=_HINT)
    return int(found)


def _placeholders(config: Any) -> frozenset[int]:
    """Ids that stand for images, videos and sounds."""
    kinds = ("image", "video", "audio")
    names = [f"{kind}_token_{end}" for kind in kinds for end in ("id", "index")]
    found = (getattr(config, name, None) for name in names)
    return frozenset(int(token) for token in found if token is not None)


def _load_without_layers(
    folder: Path, name: str, dtype: torch.dtype, device: Any, trust_remote_code: bool
) -> Any:
    from transformers import AutoConfig, AutoModel

    with reading(str(folder), "an image-text model"), quiet():
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
        refuse_blind(config, name)
        text = config.get_text_config(decoder=True)
        if getattr(text, "layer_types", None):
            text.layer_types = []
        text.num_hidden_layers = 0
        loaded: Any = AutoModel.from_pretrained(
            str(folder),
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(
            f"{folder} lacks {len(missing)} weights of {type(model).__name__}, such as "
            f"{missing[0]}",
            hint="Download it again, or check that its config.json belongs to it",
        )
    return model.to(device)


def refuse_blind(config: "transformers.PretrainedConfig", name: str) -> None:
    """Raise `CheckpointError` for models that are known to show more than embeddings to their
    text stacks."""
    text, vision = config.get_text_config(decoder=True), getattr(config, "vision_config", None)
    why = None
    if getattr(vision, "deepstack_visual_indexes", None):
        why = "adds features of images to several of its layers"
    elif getattr(text, "cross_attention_layers", None):
        why = "looks at images by cross-attention"
    elif getattr(text, "hidden_size_per_layer_input", None):
        why = "reads token ids in every layer"
    if why:
        raise CheckpointError(
            f"model {name} ({config.model_type}) {why}, which a prompt can not express", hint=_HINT
        )
