"""Trains a captioner, and a draft model on the style of its captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outrider.captioning.metrics.attributes import all_facts
from outrider.captioning.scenes.scenes import Scenes
from outrider.training.core.config import Stage
from outrider.training.core.formats import END_OF_TURN
from outrider.training.core.loop import StopSignal, train_one
from outrider.training.vision_family.models import AROUND, IMAGE, WHOLE
from outrider.training.vision_family.pictures import Pairs, pixel_values

_IGNORED = -100
_HELD_OUT = 192
_LONGEST = 48
"""Largest number of tokens of a caption."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """Token ids of a question and the end of its answer: before, in and after the image.

    Attributes:
        before: ids from the beginning to the image's first mark.
        image: ids of the image tokens.
        after: ids of the question, up to the start of the caption.
        end: id that ends a caption.
    """

    before: tuple[int, ...]
    image: tuple[int, ...]
    after: tuple[int, ...]
    end: int

    @classmethod
    def of(cls, tokenizer: Any, question: str, image_tokens: int) -> "Spelling":
        """Encode the question as the processor of the exported model does."""
        message = {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": question}],
        }
        text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        before, after = text.split(IMAGE)
        ids = [
            tuple(tokenizer.encode(part, add_special_tokens=False))
            for part in (f"{before}{AROUND}{WHOLE}", f"{AROUND}{after}")
        ]
        image = tokenizer.convert_tokens_to_ids(IMAGE)
        return cls(
            ids[0], (image,) * image_tokens, ids[1], tokenizer.convert_tokens_to_ids(END_OF_TURN)
        )

    @property
    def prompt(self) -> tuple[int, ...]:
        """Return all ids before the caption."""
        return (*self.before, *self.image, *self.after)


def answers(tokenizer: Any, texts: Sequence[str], end: int) -> tuple[Tensor, Tensor]:
    """Encode captions with their end, `[n, longest]`, and their labels.

    Labels are the same ids, with `_IGNORED` in the padding.
    """
    ids = [[*tokenizer.encode(text, add_special_tokens=False), end] for text in texts]
    longest = max(len(row) for row in ids)
    padded = torch.tensor([row + [end] * (longest - len(row)) for row in ids])
    lengths = torch.tensor([len(row) for row in ids])
    inside = torch.arange(longest)[None] < lengths[:, None]
    return padded, padded.masked_fill(~inside, _IGNORED)


def caption_loss(
    model: Any,
    spelling: Spelling,
    pixels: Tensor,
    ids: Tensor,
    labels: Tensor,
    blind: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy of captions given their images, over the captions' tokens.

    Where `blind` `[n]` is true the image features are zeros. The model thus learns the captions
    without an image, which guidance uses for comparison (arXiv 2307.16686).
    """
    inner = model.model
    asked = _asked(inner, spelling, pixels, blind)
    said = inner.text_model.get_input_embeddings()(ids[:, :-1])
    hidden = inner.text_model(
        inputs_embeds=torch.cat((asked, said), dim=1), use_cache=False
    ).last_hidden_state[:, -ids.shape[1] :]
    return _cross_entropy(model.lm_head, hidden, labels)


def _asked(inner: Any, spelling: Spelling, pixels: Tensor, blind: Tensor | None = None) -> Tensor:
    """Return `[n, length, hidden]` inputs of the text stack for each image and the question."""
    features = inner.connector(inner.vision_model(pixel_values=pixels).last_hidden_state)
    if blind is not None:
        features = features.masked_fill(blind[:, None, None], 0.0)
    embed = inner.text_model.get_input_embeddings()
    before, after = (
        embed(torch.tensor(ids)).expand(len(pixels), -1, -1)
        for ids in (spelling.before, spelling.after)
    )
    return torch.cat((before, features, after), dim=1)


def text_loss(model: Any, prompt: Sequence[int], ids: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy for a model that reads only the question, not the image."""
    whole = torch.cat((torch.tensor(prompt).expand(len(ids), -1), ids[:, :-1]), dim=1)
    hidden = model.model(input_ids=whole, use_cache=False).last_hidden_state
    return _cross_entropy(model.lm_head, hidden[:, -ids.shape[1] :], labels)


def _cross_entropy(head: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    inside = labels != _IGNORED
    return F.cross_entropy(head(hidden[inside]), labels[inside])


def train_captioner(
    name: str,
    model: Any,
    tokenizer: Any,
    spelling: Spelling,
    pairs: Pairs,
    stage: Stage,
    stop: StopSignal,
    *,
    blind: float = 0.0,
    **where: Any,
) -> dict[str, Any]:
    """Train vision encoder and language model together, with a share of the examples `blind`.

    `where` is passed to `StageRun`.
    """

    def step(row: int) -> dict[str, float]:
        pixels, texts = pairs.batch(row, stage.batch)
        hidden = torch.tensor([Random(r).random() < blind for r in range(row, row + len(texts))])
        answer = answers(tokenizer, texts, spelling.end)
        loss = caption_loss(model, spelling, pixels, *answer, hidden if blind else None)
        loss.backward()
        return {"loss": float(loss.detach())}

    def evaluate() -> dict[str, float]:
        return scene_figures(model, tokenizer, spelling, _HELD_OUT)

    return train_one(name, model, stage, stop, step, evaluate, **where)


def train_draft(
    name: str,
    model: Any,
    tokenizer: Any,
    prompt: Sequence[int],
    pairs: Pairs,
    stage: Stage,
    stop: StopSignal,
    **where: Any,
) -> dict[str, Any]:
    """Train a language model on captions without images."""
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)

    def step(row: int) -> dict[str, float]:
        texts = pairs.texts(row, stage.batch)
        loss = text_loss(model, prompt, *answers(tokenizer, texts, end))
        loss.backward()
        return {"loss": float(loss.detach())}

    return train_one(name, model, stage, stop, step, **where)


@torch.no_grad()
def write_captions(
    model: Any, tokenizer: Any, spelling: Spelling, pixels: Tensor, batch: int = 64
) -> list[str]:
    """Write greedy captions of `pixels` `[n, 3, side, side]`, one batch at a time."""
    was_training = model.training
    model.eval()
    rows = [ids for part in pixels.split(batch) for ids in _caption_ids(model, spelling, part)]
    model.train(was_training)
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in rows]


def _caption_ids(model: Any, spelling: Spelling, pixels: Tensor) -> list[list[int]]:
    """Return the ids of one caption for each image, without the end token."""
    inner = model.model
    inputs = _asked(inner, spelling, pixels)
    rows: list[list[int]] = [[] for _ in pixels]
    running = torch.ones(len(pixels), dtype=torch.bool)
    cache = None
    for _ in range(_LONGEST):
        out = inner.text_model(inputs_embeds=inputs, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        chosen = model.lm_head(out.last_hidden_state[:, -1]).argmax(dim=-1)
        running &= chosen != spelling.end
        for i in running.nonzero().flatten().tolist():
            rows[i].append(int(chosen[i]))
        if not running.any():
            break
        inputs = inner.text_model.get_input_embeddings()(chosen)[:, None]
    return rows


def scene_figures(
    model: Any, tokenizer: Any, spelling: Spelling, count: int, seed: int = 999
) -> dict[str, float]:
    """Measure recall and hallucination rate of greedy captions over `count` held-out scenes."""
    scenes = Scenes(seed=seed)
    images = [scenes.image(i) for i in range(count)]
    side = images[0].width
    texts = write_captions(model, tokenizer, spelling, pixel_values(images, side))
    found = all_facts(texts, [scenes.truth(i) for i in range(count)])
    words = sum(len(text.split()) for text in texts) / count
    return {"recall": found.recall, "hallucination": found.hallucination_rate, "words": words}
