"""Vision encoders from `transformers`: they turn images and questions into prompts with embeddings.

The model's own forward runs up to its language model and stops there. The inputs of the language
model (the embeddings, with image features in their places, and positions) are read by the runner of
the text stack. Models whose text stacks need other inputs are refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outrider.core.errors import CheckpointError, OptionError
from outrider.core.types import ImagePrompt, Prompt
from outrider.kernels.forking import Exclusive
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.folder_files import check_folder, quiet
from outrider.models.transformers.pretrained import check_parameters, reading
from outrider.models.vision.processor import ImageProcessor, Inputs
from outrider.models.vision.sharing import rounds, shared_features

if TYPE_CHECKING:
    import transformers

_MOST_NUMBERS = 1 << 23
"""Largest number of pixel values in one forward, unless one prompt has more: 32 MiB in float32."""

_BY_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
"""Inputs with one number for each token; others have their images or patches along dimension 0."""

_UNDERSTOOD = {"inputs_embeds", "position_ids", "attention_mask", "cache_position"}
"""Inputs of a text stack that are supported: prompts hold the first two, the others follow."""

_HINT = "Use an image-text model with a plain causal text stack, such as SmolVLM, Qwen2-VL or LLaVA"


class TransformersVisionEncoder:
    """`protocols.VisionEncoder` over an image-text model of `transformers`.

    Args:
        model: the model, with or without a head, with all layers of its text stack or none.
        pictures: its processor.
        name: its name in error messages.

    Raises:
        CheckpointError: its text stack needs more than embeddings and positions, or the inputs from
            its processor do not fit. A small image is used for the test.
    """

    def __init__(self, model: Any, image_processor: ImageProcessor, *, name: str) -> None:
        self.model = model.eval()
        self.image_processor = image_processor
        self.name = name
        self._lock = Exclusive()  # hooks of one thread must not affect another
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
        """Load the vision tower, the projector and the embeddings, but no layers of the text stack.

        Raises:
            CheckpointError: the model cannot be read, or cannot be used (see the class).
        """
        name = name or checkpoint.path.name
        model = _load_without_layers(checkpoint.path, name, dtype, device, trust_remote_code)
        image_processor = ImageProcessor.load(
            checkpoint.path, model.config, name=name, trust_remote_code=trust_remote_code
        )
        return cls(model, image_processor, name=name)

    @property
    def num_parameters(self) -> int:
        """Number of weights; tied ones are counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    # -- views --------------------------------------------------------------------------------

    def views(self, image_prompt: Sequence[ImagePrompt]) -> list[Prompt]:
        """Return the prompt that the model reads for each item. Equal images with an equal question
        are read once, and equal images are encoded once, whatever is asked about them. Several
        prompts are encoded together if their shapes allow it.

        Raises:
            OptionError: a question that the template cannot render, images that the processor
                refuses, or a question that ends with an image.
            CheckpointError: the text stack needs more than embeddings and positions.
        """
        once = {_seen_as(p): p for p in image_prompt}
        inputs = [self.image_processor.inputs(p) for p in once.values()]
        for found in inputs:
            self._check_end(found)
        seen: dict[int, tuple[Tensor, Tensor | None]] = {}
        turns = rounds([_pictures(found) for found in inputs])
        with self._lock.held, shared_features(self._base) if len(turns) > 1 else nullcontext():
            for turn in turns:
                for group in _groups([inputs[i] for i in turn]):
                    numbers = [turn[i] for i in group]
                    parts = self._read([inputs[i] for i in numbers])
                    seen.update(zip(numbers, parts, strict=True))
        at = {key: i for i, key in enumerate(once)}
        found = [(p, at[_seen_as(p)]) for p in image_prompt]
        return [self._prompt(inputs[i], *seen[i], blank=p.blank) for p, i in found]

    def _check_end(self, inputs: Inputs) -> None:
        if int(inputs["input_ids"][0, -1]) == self._image_id:
            raise OptionError(
                "the question ends with an image, but the last token of a prompt must be text",
                hint="Put text after the last image",
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
        """Return embeddings `[length, hidden]` and positions `[3, length]` of each prompt."""
        batch = self._batched(inputs)
        with self._lock.held, _caught(self._base, self.stack) as caught:
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
        """Merge several prompts: ids are padded on the right, images are concatenated."""
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
        """Return time, height and width of one prompt's tokens; None if each equals the index."""
        if positions is None:
            return None
        if positions.ndim == 3 and positions.shape[0] in (3, 4):
            return positions[
                -3:, prompt, :length
            ].cpu()  # if there is a fourth row, it is the first, for packing
        plain = torch.arange(length, device=positions.device)
        if positions.ndim != 2 or not torch.equal(positions[prompt, :length], plain):
            raise self._refusal(f"positions of shape {tuple(positions.shape)}")
        return None

    def _refuse_more(self, caught: Mapping[str, Any], given: Tensor) -> None:
        """Raise `CheckpointError` if the text stack gets inputs that a prompt cannot hold."""
        more = [key for key, value in caught.items() if key not in _UNDERSTOOD and _holds(value)]
        if more:
            raise self._refusal(f"{more[0]} in addition to embeddings and positions")
        mask = caught.get("attention_mask")
        plain = mask is None or (isinstance(mask, Tensor) and mask.shape == given.shape)
        if not plain or (isinstance(mask, Tensor) and not torch.equal(mask.long(), given.long())):
            raise self._refusal("a mask of its own")

    def _refusal(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"the text stack of {self.name} ({self.model.config.model_type}) needs {what}, "
            "which a prompt cannot hold",
            hint=_HINT,
        )

    def _try(self) -> None:
        try:
            self.views([self.image_processor.trial])
        except CheckpointError:
            raise
        except Exception as error:  # models raise various exceptions on unsuitable inputs
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{self.name} cannot read the output of its processor: {reason}",
                hint="Copy the processor's files of the original model into its folder",
            ) from error


def _seen_as(image_prompt: ImagePrompt) -> tuple[int, int]:
    """Return a key that is equal for items that differ only in being blank."""
    return id(image_prompt.messages), id(image_prompt.images)


def _pictures(inputs: Inputs) -> Inputs:
    """Return the inputs that depend on the images alone."""
    return {key: value for key, value in inputs.items() if key not in _BY_TOKEN}


def _groups(inputs: Sequence[Inputs]) -> Iterator[list[int]]:
    """Yield indices of prompts that one forward can read together.

    They have the same inputs, of equal shape except along dimension 0, and not too many pixels.
    """
    groups: dict[Any, list[int]] = {}
    for i, found in enumerate(inputs):
        shapes = ((k, tuple(v.shape[1:])) for k, v in found.items() if k not in _BY_TOKEN)
        groups.setdefault(tuple(shapes), []).append(i)
    for group in groups.values():
        size = max(sum(v.numel() for v in _pictures(inputs[i]).values()) for i in group)
        most = max(1, _MOST_NUMBERS // max(size, 1))
        yield from (group[i : i + most] for i in range(0, len(group), most))


def _holds(value: Any) -> bool:
    """Whether the value contains a tensor."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return any(_holds(part) for part in value)
    return isinstance(value, Tensor)


class _Caught(Exception):
    """Ends a forward at the start of its language model."""


@contextmanager
def _caught(base: Any, stack: torch.nn.Module) -> Iterator[dict[str, Any]]:
    """Context manager: collect the inputs of `stack`, and end the forward there."""
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
        if hasattr(base, "rope_deltas"):  # state that `generate` keeps of the last prompt
            base.rope_deltas = known


# -- structure of a model -------------------------------------------------------------------


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
        raise CheckpointError(f"the configuration of {name} has no image_token_id", hint=_HINT)
    return int(found)


def _placeholders(config: Any) -> frozenset[int]:
    """Return the ids that stand for images, videos and sounds."""
    kinds = ("image", "video", "audio")
    names = [f"{kind}_token_{end}" for kind in kinds for end in ("id", "index")]
    found = (getattr(config, name, None) for name in names)
    return frozenset(int(token) for token in found if token is not None)


def _load_without_layers(
    folder: Path, name: str, dtype: torch.dtype, device: Any, trust_remote_code: bool
) -> Any:
    from transformers import AutoConfig, AutoModel

    check_folder(folder)
    with reading(str(folder), "an image-text model"), quiet():
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
        refuse_blind(config, name)
        text = config.get_text_config(decoder=True)
        if getattr(text, "layer_types", None):
            text.layer_types = []
        text.num_hidden_layers = 0
        # the layers are not read here; for a quantised vision tower, keys are missing below
        vars(config).pop("quantization_config", None)
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
    check_parameters(model, str(folder))
    return model.to(device)


def refuse_blind(config: "transformers.PretrainedConfig", name: str) -> None:
    """Raise `CheckpointError` for models whose text stacks need more than embeddings."""
    text, vision = config.get_text_config(decoder=True), getattr(config, "vision_config", None)
    why = None
    if getattr(vision, "deepstack_visual_indexes", None):
        why = "adds features of images to several of its layers"
    elif getattr(text, "cross_attention_layers", None):
        why = "reads images by cross-attention"
    elif getattr(text, "hidden_size_per_layer_input", None):
        why = "reads token ids in every layer"
    if why:
        raise CheckpointError(
            f"model {name} ({config.model_type}) {why}, which is not supported", hint=_HINT
        )
