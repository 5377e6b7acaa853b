"""Thresholds given by their effect: "accept 80 %" instead of "0.31".

A calibration records the values of one divergence for one pair of models under one set of warps.
It is refused for any other pair, divergence or warps, because the same number has another effect
there. `strategy/calibrate.py` makes calibrations; a JSON file holds a list of them.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import OptionError, writing
from outrider.protocols import LanguageModel

POINTS = 101
"""Number of quantiles kept: one for each percent, from 0 to 100."""

_HINT = "Run `outrider calibrate` with these models and settings, or give the threshold as a number"


@dataclass(frozen=True, slots=True)
class ModelId:
    """Identifies a model by its weights; the name is for display and is not compared."""

    name: str
    fingerprint: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelId) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @classmethod
    def of(cls, model: LanguageModel) -> "ModelId":
        """Compute the identity of `model` from its weights, and from the policy of its caches."""
        info = model.info
        own = f"{info.fingerprint}-{info.kv_policy}" if info.kv_policy else info.fingerprint
        return cls(info.name, own)

    def __str__(self) -> str:
        return f"{self.name} ({self.fingerprint})"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationKey:
    """Identifies what was calibrated: one divergence, two models and the warps.

    Attributes:
        divergence: the name of the divergence.
        proposer: the model whose raw logits are compared with the verifier's.
        verifier: the model that accepts drafts.
        warps: warp settings used to write the calibration text, as `SamplingParams.warps` names
            them.
    """

    divergence: str
    proposer: ModelId
    verifier: ModelId
    warps: Mapping[str, float]

    def differences(self, wanted: "CalibrationKey") -> list[str]:
        """Describe each difference from `wanted`: the value here, and the value wanted."""
        pairs = {
            "divergence": (self.divergence, wanted.divergence),
            "proposer": (self.proposer, wanted.proposer),
            "verifier": (self.verifier, wanted.verifier),
            "warps": (_warps(self.warps), _warps(wanted.warps)),
        }
        return [
            f"{part} {ours}, not {theirs}"
            for part, (ours, theirs) in pairs.items()
            if ours != theirs
        ]


def _warps(warps: Mapping[str, float]) -> str:
    """Describe warps in words. At temperature 0 only the temperature has an effect."""
    active = {"temperature": 0.0} if warps.get("temperature") == 0 else dict(warps)
    return " ".join(f"{name}={value:g}" for name, value in sorted(active.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The distribution of one divergence along text that the verifier writes.

    Attributes:
        subject: the divergence, the pair and the warps.
        quantiles: `[POINTS]` ascending: entry i is the smallest divergence that a share
            i / (POINTS - 1) of the positions does not exceed.
        positions: number of tokens measured.
    """

    key: CalibrationKey
    quantiles: tuple[float, ...]
    positions: int

    def __post_init__(self) -> None:
        ascending = all(a <= b for a, b in zip(self.quantiles, self.quantiles[1:], strict=False))
        if len(self.quantiles) < 2 or not ascending or self.positions < 1:
            raise OptionError(
                f"a calibration of {self.key.divergence} has {len(self.quantiles)} quantiles of "
                f"{self.positions} positions; at least two ascending quantiles of one position are "
                "needed",
                hint=_HINT,
            )

    @classmethod
    def of(cls, key: CalibrationKey, values: Float[Tensor, " positions"]) -> "Calibration":
        """Build a calibration from the divergence at each position.

        NaN counts as inf, because no threshold accepts it.
        """
        return cls(key=key, quantiles=quantiles(values), positions=values.numel())

    def threshold(self, accept_rate: float) -> float:
        """Return the threshold that accepts a share `accept_rate` of the positions.

        Raises:
            OptionError: the share is not above 0 and at most 1.
        """
        _check_rate(accept_rate)
        place = accept_rate * (len(self.quantiles) - 1)
        low, high = (self.quantiles[i] for i in (math.floor(place), math.ceil(place)))
        if low == high or math.isinf(high):
            return high
        return low + (place - math.floor(place)) * (high - low)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Add this calibration to the file at `path`, in place of an older one of its subject."""
        file = Path(path)
        kept = load_calibrations(file) if file.exists() else []
        save_calibrations(file, [c for c in kept if c.key.differences(self.key)] + [self])

    @classmethod
    def _read(cls, record: Mapping[str, Any]) -> "Calibration":
        key = record["key"]
        return cls(
            key=CalibrationKey(
                divergence=str(key["divergence"]),
                proposer=ModelId(**key["proposer"]),
                verifier=ModelId(**key["verifier"]),
                warps={str(k): float(v) for k, v in key["warps"].items()},
            ),
            quantiles=tuple(float(q) for q in record["quantiles"]),
            positions=int(record["positions"]),
        )

    def _record(self) -> dict[str, Any]:
        record = asdict(self)
        record["quantiles"] = [q if math.isfinite(q) else str(q) for q in self.quantiles]
        return record


def quantiles(values: Float[Tensor, " positions"], points: int = POINTS) -> tuple[float, ...]:
    """Compute quantiles as order statistics of `values`: the lower value, not interpolated."""
    ordered = values.double().nan_to_num(nan=math.inf, posinf=math.inf).sort().values
    shares = torch.arange(points, dtype=torch.float64) / (points - 1)
    # The epsilon corrects rounding of shares such as 0.07 that should give a whole number.
    places = (shares * values.numel() - 1e-9).ceil().long() - 1
    return tuple(ordered[places.clamp(min=0)].tolist())


def save_calibrations(path: str | os.PathLike[str], calibrations: Iterable[Calibration]) -> None:
    """Replace the file with one that holds exactly `calibrations`.

    An older file stays intact until the new one is complete.
    """
    records = [calibration._record() for calibration in calibrations]
    text = json.dumps({"version": 1, "calibrations": records}, indent=1, allow_nan=False)
    draft = Path(f"{os.fspath(path)}.part")
    with writing(path):
        try:
            draft.write_text(text + "\n", encoding="utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def load_calibrations(path: str | os.PathLike[str]) -> list[Calibration]:
    """Read the calibrations of a file. Raises `OptionError` if it is missing or malformed."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        return [Calibration._read(c) for c in record["calibrations"]]
    except OSError as error:
        raise OptionError(
            f"calibration file {os.fspath(path)} cannot be read: {error.strerror}", hint=_HINT
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OptionError(
            f"{os.fspath(path)} is not a calibration file",
            hint="Make one with `outrider calibrate`",
        ) from None


def find_calibration(calibrations: Sequence[Calibration], wanted: CalibrationKey) -> Calibration:
    """Return the calibration that matches `wanted`; the newest if several match.

    Raises:
        OptionError: none matches; the message says how the nearest one differs.
    """
    misfits = [c.key.differences(wanted) for c in calibrations]
    for calibration, misfit in zip(reversed(calibrations), reversed(misfits), strict=True):
        if not misfit:
            return calibration
    if not misfits:
        raise OptionError(
            f"no calibration of {wanted.divergence} for proposer {wanted.proposer} and verifier "
            f"{wanted.verifier}",
            hint=_HINT,
        )
    raise OptionError(f"the calibration is for {'; '.join(min(misfits, key=len))}", hint=_HINT)


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold as the user gives it: a divergence, or the share of positions to accept."""

    value: float | None = None
    accept_rate: float | None = None

    @classmethod
    def parse(cls, given: float | str) -> "Threshold":
        """Read `0.3`, `"0.3"`, `"80%"` or `"accept=0.8"`.

        Raises:
            OptionError: it is none of these, or the share is not above 0 and at most 1.
        """
        text = str(given).strip().removeprefix("accept=")
        try:
            if text.endswith("%"):
                return cls(accept_rate=_check_rate(float(text[:-1]) / 100))
            number = float(text)
        except ValueError:
            number = math.nan
        if math.isnan(number):
            raise OptionError(
                f"threshold is {given!r}", hint="Give a number such as 0.3, or a share such as 80%"
            )
        is_rate = text != str(given).strip()
        return cls(accept_rate=_check_rate(number)) if is_rate else cls(value=number)

    def resolve(self, calibrations: Sequence[Calibration], key: CalibrationKey) -> float:
        """Return the divergence; a share is looked up in `calibrations`.

        Raises `OptionError` if no calibration matches `key`.
        """
        if self.accept_rate is None:
            assert self.value is not None
            return self.value
        return find_calibration(calibrations, key).threshold(self.accept_rate)


def _check_rate(rate: float) -> float:
    if not 0.0 < rate <= 1.0:
        raise OptionError(
            f"the share to accept is {rate:g}",
            hint="Give a share above 0 and at most 1; a negative threshold accepts none",
        )
    return rate
