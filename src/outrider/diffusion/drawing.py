"""How the token of a masked position is chosen from its logits."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.core.types import IntArray
from outrider.sampling import SamplingParams
from outrider.sampling.noise import Purpose, gumbel, signed, stream_key, uniform
from outrider.sampling.warps import warp

_USED = frozenset(
    {
        *("temperature", "top_k", "top_p", "min_p", "typical_p", "seed", "max_new_tokens"),
        *("logit_bias", "banned_tokens", "stop_token_ids", "ignore_eos", "forced_tokens"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """Settings of the choice of tokens. Defaults: the most probable token.

    Attributes:
        temperature: 0 selects the best token; otherwise scores are divided by it.
        top_k: keep this many best tokens; 0 keeps all.
        top_p: keep the smallest set of best tokens with at least this probability mass.
        min_p: keep tokens with at least this share of the best token's probability.
        typical_p: keep the locally typical tokens of this mass.
        seed: equal seeds give equal texts.
        sample: number of the sample of the prompt; each has noise of its own.
        logit_bias: added to the scores of these ids.
        banned_tokens: ids that are never chosen.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    seed: int = 0
    sample: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    banned_tokens: tuple[int, ...] = ()

    @classmethod
    def of(cls, params: SamplingParams, seed: int = 0) -> "Drawing":
        """Return the settings of a request; `seed` is used if the request has none.

        Raises:
            OptionError: a setting needs a text that is written from left to right.
        """
        plain = SamplingParams()
        for one in fields(params):
            value = getattr(params, one.name)
            if one.name not in _USED and value != getattr(plain, one.name):
                raise OptionError(
                    f"{one.name} is given, but positions are written in any order",
                    hint=f"Leave out {one.name}",
                )
        names = (one.name for one in fields(cls) if one.name not in ("seed", "sample"))
        settings = {name: getattr(params, name) for name in names}
        return cls(**settings, seed=seed if params.seed is None else params.seed)

    def edited(self, logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
        """Return a copy of the logits with biases and bans, float32 at least."""
        scores = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
        scores = scores.clone() if scores is logits else scores
        width = scores.shape[-1]
        for token, bias in self.logit_bias.items():
            if token < width:
                scores[:, token] += bias
        scores[:, [token for token in self.banned_tokens if token < width]] = -torch.inf
        return scores

    def choose(
        self, scores: Float[Tensor, "rows vocab"], slots: IntArray, number: int
    ) -> Int[Tensor, " rows"]:
        """Return a token for each row.

        At a temperature T above 0 it is `argmax exp(score) / (-log U)^T`, in float64, over the
        tokens that the warps keep. That is a draw from `softmax(score / T)`. The numbers U depend
        on the seed, the slot, the round and the token.

        Args:
            scores: the edited logits.
            slots: the position of each row in the answer.
            number: the number of the round.
        """
        if self.temperature == 0:
            return scores.argmax(-1).cpu()
        keys = [
            stream_key(self.seed, self.sample, slot, Purpose.UNMASK, 0, number)
            for slot in slots.tolist()
        ]
        if self.top_k or self.top_p < 1.0 or self.min_p or self.typical_p < 1.0:
            rows = zip(scores.double(), keys, strict=True)
            return torch.tensor([self._warped(row, key) for row, key in rows], dtype=torch.int64)
        ids = torch.arange(scores.shape[-1], device=scores.device)
        table = torch.tensor([signed(key) for key in keys], dtype=torch.int64)
        table = table.to(scores.device)[:, None]
        noise = gumbel(table, ids[None].expand(len(keys), -1))
        return (scores.double() / self.temperature + noise).argmax(-1).cpu()

    def _warped(self, row: Float[Tensor, " vocab"], key: int) -> int:
        support = warp(
            row,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            typical_p=self.typical_p,
        )
        best = (support.scores.double() + gumbel(key, support.ids)).argmax()
        return int(support.ids[best])

    def place(self, slot: int) -> float:
        """Return the place of a slot in a random order, in (0, 1); it is known beforehand."""
        return uniform(stream_key(self.seed, self.sample, slot, Purpose.UNMASK, 1))
