"""Turns images and a question into the inputs of a forward with the checkpoint's own processor.

Processors use their PIL backend, and parts needed only for videos are left out.
"""

import inspect
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outrider.core.errors import CheckpointError, MissingExtraError, OptionError, OutriderError
from outrider.core.types import ImagePrompt
from outrider.models.checkpoints.folder_files import check_folder
from outrider.models.checkpoints.messages import Reads, spoken_text
from outrider.models.checkpoints.protection import Protection
from outrider.models.checkpoints.templates.rendering import render_chat

if TYPE_CHECKING:
    import transformers

Inputs = dict[str, Tensor]
"""Inputs of a forward for one prompt; `input_ids` is `[1, length]`."""


class ImageProcessor:
    """A processor of `transformers`, reduced to the functions that vision encoders need.

    Args:
        processor: a `ProcessorMixin` with an image processor and a tokenizer.
        name: name of its model in error messages.
    """

    def __init__(self, processor: "transformers.ProcessorMixin", *, name: str) -> None:
        self.processor: Any = processor  # its arguments depend on its class
        self.name = name

    @classmethod
    def load(
        cls,
        folder: Path,
        config: "transformers.PretrainedConfig",
        *,
        name: str,
        trust_remote_code: bool = False,
    ) -> "ImageProcessor":
        """Load the processor of a checkpoint in `folder` with the configuration `config`.

        Raises:
            CheckpointError: there is none, or it cannot be built.
            MissingExtraError: Pillow is not installed.
        """
        try:
            import PIL  # noqa: F401  # the image processors' backend
        except ImportError:
            raise MissingExtraError("pillow", "vision") from None
        check_folder(folder)
        try:
            processor = _still_processor(folder, config, trust_remote_code)
        except Exception as error:  # processor classes raise various exceptions on bad files
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"the processor of {folder} cannot be built: {reason}",
                hint="Copy preprocessor_config.json, processor_config.json and the tokenizer of "
                "the original model into it",
            ) from error
        return cls(processor, name=name)

    @property
    def _tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def _template(self) -> str | None:
        return getattr(self.processor, "chat_template", None) or self._tokenizer.chat_template

    @cached_property
    def _protection(self) -> Protection:
        return Protection(self._tokenizer.all_special_tokens)

    @cached_property
    def _reads(self) -> Reads:
        return Reads.of(self._render)

    def _render(self, messages: list[dict[str, Any]]) -> str:
        return render_chat(self._tokenizer, messages, name=self.name, template=self._template)

    def text(self, image_prompt: ImagePrompt) -> str:
        """Render the question with one mark for each image.

        Uses the chat template. Without one, the images come first, then the texts.

        Raises:
            OptionError: the template refuses the messages, or renders fewer images.
        """
        mark, count = self.processor.image_token, len(image_prompt.images)
        if (found := self._protection.first(image_prompt.messages)) not in (None, mark):
            raise OptionError(
                f"a message with images contains the text of the control token {found!r}",
                hint="Remove it: a processor cannot read it as plain text",
            )
        if not self._template:
            return mark * count + spoken_text(image_prompt.messages)
        try:
            text = self._render(self._reads.fit(image_prompt.messages, mark))
        except OutriderError:
            raise
        except Exception as error:  # templates may raise any exception
            reason = " ".join(str(error).split())[:200]
            raise OptionError(
                f"the chat template of {self.name} refuses these messages: {reason}",
                hint="Give a list of {'role': 'user' or 'assistant', 'content': text or parts}",
            ) from error
        if (found := text.count(mark)) != count:
            raise OptionError(
                f"{count} images are given, but the chat template of {self.name} renders {found} "
                f"placeholders ({mark})",
                hint="Give one image part for each image, and no placeholder in a text",
            )
        return text

    def inputs(self, image_prompt: ImagePrompt) -> Inputs:
        """Compute the inputs for the model. Raises `OptionError` for unsupported images."""
        return self._processed(self.text(image_prompt), image_prompt.images)

    def _processed(self, text: str, images: Sequence[Any]) -> Inputs:
        try:
            found = self.processor(
                text=[text],
                images=list(images) or None,
                return_tensors="pt",
                add_special_tokens=not self._begun(text),
            )
        except Exception as error:  # processors raise various exceptions for ratios and sizes
            reason = " ".join(str(error).split())[:200]
            raise OptionError(
                f"the processor of {self.name} refuses an image: {reason}",
                hint="Give RGB images that are neither tiny nor very long",
            ) from error
        return {key: value for key, value in found.items() if isinstance(value, Tensor)}

    def _begun(self, text: str) -> bool:
        """Whether the template has already added BOS."""
        first = self._tokenizer.bos_token
        return bool(self._template) and first is not None and text.startswith(first)

    @cached_property
    def trial(self) -> ImagePrompt:
        """Return a small random image and a word, for testing a model."""
        from PIL import Image

        noise = torch.randint(0, 256, (24, 40, 3), generator=torch.Generator().manual_seed(0))
        image = Image.fromarray(noise.to(torch.uint8).numpy(), "RGB")
        parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
        return ImagePrompt(messages=({"role": "user", "content": parts},), images=(image,))


def _still_processor(
    folder: Path, config: "transformers.PretrainedConfig", trust_remote_code: bool
) -> Any:
    """Load the checkpoint's processor for images only."""
    from transformers import AutoImageProcessor, AutoTokenizer, ProcessorMixin

    settings, _ = ProcessorMixin.get_processor_dict(str(folder))
    kind: Any = _processor_class(settings, config)
    if kind is None:
        raise ValueError(f"no processor is known for model type {config.model_type}")
    parts = {
        "image_processor": AutoImageProcessor.from_pretrained(
            str(folder), backend="pil", trust_remote_code=trust_remote_code
        ),
        "tokenizer": AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=trust_remote_code
        ),
    }
    return _built(kind, parts, _geometry(config) | settings)


def _processor_class(settings: dict[str, Any], config: Any) -> Any:
    from transformers.models.auto import processing_auto as known

    if name := settings.get("processor_class"):
        return known.processor_class_from_name(name)
    return known.PROCESSOR_MAPPING.get(type(config), None)


def _geometry(config: Any) -> dict[str, Any]:
    """Return settings that old checkpoints keep in the model's configuration."""
    found = {
        "patch_size": getattr(getattr(config, "vision_config", None), "patch_size", None),
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", None),
    }
    return {key: value for key, value in found.items() if value is not None}


def _built(kind: Any, parts: dict[str, Any], settings: dict[str, Any]) -> Any:
    """Build a processor of `kind` from only these parts, without videos or sounds."""
    from transformers import ProcessorMixin

    class Still(kind):
        def __init__(self, **given: Any) -> None:
            try:
                super().__init__(**given)
            except ImportError:  # SmolVLM's needs a package that writes numbers of frames as words
                names = (*kind.get_attributes(), "chat_template")
                ProcessorMixin.__init__(self, **{n: given[n] for n in names if n in given})

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument is None and argument_name not in parts:
                return type(None)
            return super().check_argument_for_proper_class(argument_name, argument)

        @classmethod
        def get_attributes(cls) -> list[str]:
            return kind.get_attributes()

    attributes = kind.get_attributes()
    accepted = set(inspect.signature(kind.__init__).parameters) - {*attributes, "self", "kwargs"}
    given = {name: settings[name] for name in accepted if settings.get(name) is not None}
    return Still(**{**dict.fromkeys(attributes), **given, **parts})
