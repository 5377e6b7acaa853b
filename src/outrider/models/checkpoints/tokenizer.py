"""Converts text to token ids and back with the tokenizer of a checkpoint."""

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outrider.core.errors import CheckpointError, OptionError, OutriderError, OutriderWarning
from outrider.core.types import Message
from outrider.core.values import JsonValue
from outrider.models.checkpoints.folder_files import check_folder, explain_code, quiet
from outrider.models.checkpoints.gguf import tokens
from outrider.models.checkpoints.gguf.opening import find_gguf
from outrider.models.checkpoints.json_file import is_there, read_object
from outrider.models.checkpoints.messages import Reads
from outrider.models.checkpoints.protection import SEPARATOR, Protection
from outrider.models.checkpoints.templates import probing
from outrider.models.checkpoints.templates.rendering import render_chat

if TYPE_CHECKING:
    import transformers

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)

_SENTENCE = re.compile(r".{0,400}?(?:[.!?]\s+|\n\s*|$)|.{1,400}", re.DOTALL)
"""A sentence with the white space behind it, or 400 characters of a longer one."""

_MARK = re.compile(r"<\S+>$")
"""Matches marks such as `<think>`; other added tokens are words and white space."""


class Tokenizer:
    """A tokenizer of `transformers`, reduced to what decoding needs.

    Args:
        tokenizer: any object with the interface of `PreTrainedTokenizerBase`.
        name: its name in error messages.
    """

    def __init__(
        self, tokenizer: "transformers.PreTrainedTokenizerBase", *, name: str = "tokenizer"
    ) -> None:
        self.tokenizer: Any = tokenizer  # return types of its methods depend on options
        self.name = name
        self.control_tokens = False
        """Whether the texts of control tokens in chat messages are read as control tokens."""

    @classmethod
    def load(cls, source: str | Path, *, trust_remote_code: bool = False) -> "Tokenizer":
        """Read a tokenizer from a folder, from a GGUF file or by a hub name.

        Raises:
            CheckpointError: there is none, or it cannot be read.
        """
        folder = Path(source).expanduser()
        if (file := find_gguf(folder)) is not None:
            return cls(tokens.load_tokenizer(file), name=str(file))
        if folder.is_dir() and not has_tokenizer(folder):
            raise CheckpointError(
                f"{folder} has no tokenizer",
                hint="Copy tokenizer.json and tokenizer_config.json of the original model into it",
            )
        if folder.is_dir():
            check_folder(folder)
        from transformers import AutoTokenizer  # takes seconds to import

        place = str(folder) if folder.is_dir() else str(source)
        try:
            with quiet():
                found = AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code)
        except Exception as error:  # tokenizer classes raise various exceptions on bad files
            explain_code(place, error)
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"transformers cannot load the tokenizer of {place}: {reason}",
                hint="Download its files again",
            ) from error
        _add_template(found, folder)
        return cls(found, name=place)

    # -- text -------------------------------------------------------------------------------

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of `text`, with opening tokens of the tokenizer (such as BOS).

        A text that begins with the text of BOS, such as a rendered chat template, gets no second
        one.
        """
        with self._panics():
            ids = tuple(self.tokenizer.encode(text))
        twice = self.bos_id is not None and ids[:2] == (self.bos_id, self.bos_id)
        return ids[1:] if twice and text.startswith(self.tokenizer.bos_token) else ids

    def encode_plain(self, text: str) -> tuple[int, ...]:
        """Return the ids of `text` of any length, as part of another text, without opening
        tokens.
        """
        with self._panics():
            return tuple(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))

    @contextmanager
    def _panics(self) -> Iterator[None]:
        """Context manager: report panics of `tokenizers`, such as for endless backtracking."""
        try:
            yield
        except BaseException as error:  # a panic is no Exception, and its class is private
            if type(error).__name__ != "PanicException":
                raise
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"the tokenizer of {self.name} cannot read this text: {reason}",
                hint="Correct the regular expressions in tokenizer.json",
            ) from None

    def encode_spans(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids of `text` as a document inside another text, and the end offset of each.

        A document is plain text: marks of a conversation in it (`<|end|>`) are encoded as ordinary
        tokens. End offsets never descend; tokens that share a character have the same end.
        Tokenizers without offsets read sentence by sentence, and all tokens of a sentence end where
        it ends.
        """
        settings: dict[str, JsonValue] = {"add_special_tokens": False, "split_special_tokens": True}
        ids: list[int] = []
        ends: list[int] = []
        for piece, start in self._pieces(text):
            if self.tokenizer.is_fast:
                with self._panics():
                    found = self.tokenizer(
                        piece, return_offsets_mapping=True, verbose=False, **settings
                    )
                ids += found["input_ids"]
                ends += [start + end for _, end in found["offset_mapping"]]
            else:
                for sentence, stop in _sentences(piece):
                    fresh = self.tokenizer.encode(sentence, verbose=False, **settings)
                    ids += fresh
                    ends += [start + stop] * len(fresh)
        return tuple(ids), tuple(accumulate(ends, max))

    def _pieces(self, text: str) -> Iterator[tuple[str, int]]:
        """Split `text` inside each added mark that is not special (`<think>`), and give the starts.

        No tokenizer option splits such marks.
        """
        start = 0
        for found in self._marks.finditer(text) if self._marks else ():
            yield text[start : found.start() + 1], start
            start = found.start() + 1
        yield text[start:], start

    @cached_property
    def _marks(self) -> re.Pattern[str] | None:
        added = getattr(self.tokenizer, "added_tokens_decoder", {}).values()
        marks = [re.escape(t.content) for t in added if not t.special and _MARK.match(t.content)]
        return re.compile("|".join(marks)) if marks else None

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of `ids`; ids beyond the vocabulary (padding of the logits) have none."""
        known = [int(i) for i in ids if i < len(self.table)]
        return self.tokenizer.decode(
            known, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )

    def decode_all(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` with special tokens."""
        return self.decode(ids, skip_special_tokens=False)

    @cached_property
    def special_texts(self) -> dict[int, str]:
        """The text of each special token, which `decode` leaves out."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        named = {i: str(self.tokenizer.convert_ids_to_tokens(i)) for i in self.special_ids}
        return named | {i: token.content for i, token in added.items() if token.special}

    def chat(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> tuple[int, ...]:
        """Return the ids of a conversation in the chat template, ready for the answer.

        Raises:
            OptionError: there is no template, or it refuses these messages.
            CheckpointError: the template exceeds a limit (`TemplateLimits`).
        """
        text = self.chat_text(messages, add_generation_prompt=add_generation_prompt)
        return self.encode_chat(text)

    def encode_chat(self, text: str) -> tuple[int, ...]:
        """Return the ids of a rendered conversation, or of a part of it, from `chat_text`.

        The template adds BOS itself. Texts of control tokens in messages stay plain text.
        """
        ids: list[int] = []
        for piece in text.split(SEPARATOR):
            ids += self.encode_plain(piece) if piece else ()
        return tuple(ids)

    @property
    def has_chat(self) -> bool:
        """Whether there is a chat template."""
        return bool(self.tokenizer.chat_template)

    def chat_text(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[JsonValue] | None = None,
        documents: Sequence[JsonValue] | None = None,
        values: Mapping[str, JsonValue] | None = None,
    ) -> str:
        """Render a conversation with the chat template, for `encode_chat`.

        The text of a control token in a message, a tool or a document is marked with a separator,
        so that it is read as plain text, with one warning; `control_tokens` turns this off. `tools`
        describes functions (see `reads_tools`), `documents` are texts with titles (see
        `reads_documents`), and `values` are other variables of the template. Raises the errors of
        `chat`.
        """
        texts = [*messages, *(tools or ()), *(documents or ())]
        if not self.control_tokens and (found := self._protection.first(texts)) is not None:
            warnings.warn(
                f"a message contains the text of the control token {found!r}, which is read as "
                "plain text. Give control_tokens=True to read it as a control token",
                OutriderWarning,
                stacklevel=4,
            )
            messages = self._protection.hide(list(messages))
            tools = tools and self._protection.hide(list(tools))
            documents = documents and self._protection.hide(list(documents))
        if not self.has_chat:
            raise OptionError(
                f"{self.name} has no chat template", hint="Give the prompt as a plain string"
            )
        try:
            return self._render(
                self._reads.fit(messages),
                add_generation_prompt,
                tools=tools,
                documents=documents,
                values=values,
            )
        except OutriderError:
            raise
        except Exception as error:  # templates may raise any exception
            reason = " ".join(str(error).split())[:200]
            raise OptionError(
                f"the chat template of {self.name} refuses these messages: {reason}",
                hint="Give a list of {'role': 'user' or 'assistant', 'content': text}",
            ) from error

    def _render(
        self,
        messages: list[dict[str, JsonValue]],
        add_generation_prompt: bool = True,
        **variables: JsonValue,
    ) -> str:
        return render_chat(
            self.tokenizer,
            messages,
            name=self.name,
            add_generation_prompt=add_generation_prompt,
            **variables,
        )

    @cached_property
    def reads_tools(self) -> bool:
        """Whether the chat template shows `tools` to the model."""
        return probing.shows_tools(self._render)

    @cached_property
    def reads_documents(self) -> bool:
        """Whether the chat template shows `documents` to the model."""
        return probing.shows_documents(self._render)

    @cached_property
    def reads_objects(self) -> bool:
        """Whether the chat template reads arguments of calls as objects; else they are JSON."""
        return probing.reads_objects(self._render)

    @cached_property
    def _protection(self) -> Protection:
        return Protection(self.special_texts.values())

    @cached_property
    def _reads(self) -> Reads:
        return Reads.of(self._render)

    # -- vocabulary -------------------------------------------------------------------------

    @property
    def opening_ids(self) -> tuple[int, ...]:
        """Tokens that the tokenizer puts before every text (such as BOS)."""
        whole, plain = self.encode("a"), self.encode_plain("a")
        size = len(plain)
        starts = (i for i in range(len(whole) - size + 1) if whole[i : i + size] == plain)
        return whole[: next(starts, 0)]

    @property
    def definition(self) -> str:
        """The text of its tokenizer.json, without padding and truncation.

        Raises:
            OptionError: it is not a tokenizer of the library `tokenizers`.
        """
        if not self.tokenizer.is_fast:
            raise OptionError(
                f"the tokenizer of {self.name} has no tokenizer.json",
                hint="Convert it with transformers (AutoTokenizer, use_fast=True), and save it",
            )
        inner = copy(self.tokenizer.backend_tokenizer)
        inner.no_padding()
        inner.no_truncation()
        return inner.to_str()

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text."""
        return self.tokenizer.bos_token_id

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text, as set in the tokenizer."""
        return self.tokenizer.eos_token_id

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of special tokens, which stand for no text."""
        return frozenset(self.tokenizer.all_special_ids)

    @cached_property
    def marks(self) -> frozenset[int]:
        """Ids that were added to the vocabulary, special or not."""
        return frozenset(getattr(self.tokenizer, "added_tokens_decoder", {}))

    @property
    def vocab_size(self) -> int:
        """One more than the highest id that has an entry."""
        return len(self.table)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the vocabulary's entries; it changes if any id changes its meaning."""
        return hashlib.sha256(json.dumps(self.table).encode()).hexdigest()

    @cached_property
    def table(self) -> tuple[str | None, ...]:
        """The vocabulary entry of each id as stored (`Ġthe`, `▁the`); None for gaps."""
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        entries: list[str | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
        for entry, token in vocabulary.items():
            entries[token] = entry
        return tuple(entries)


def _sentences(text: str) -> Iterator[tuple[str, int]]:
    """Yield the sentences of `text` and their end offsets."""
    for found in _SENTENCE.finditer(text):
        if found.group():
            yield found.group(), found.end()


def _add_template(tokenizer: Any, folder: Path) -> None:
    """Load the chat template that older image-text checkpoints keep with the processor's files."""
    file = folder / "chat_template.json"
    if not tokenizer.chat_template and file.is_file():
        try:
            tokenizer.chat_template = read_object(file)["chat_template"]
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{file} holds no chat template: {error!r:.80}") from None


def has_tokenizer(folder: Path) -> bool:
    """Whether `folder` holds tokenizer files, or is a GGUF file with a tokenizer."""
    if (file := find_gguf(folder)) is not None:
        return tokens.has_tokenizer(file)
    return any(is_there(folder / name) for name in TOKENIZER_FILES)
