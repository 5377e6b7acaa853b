"""Whether a text follows its JSON schema, for schemas that the grammar enforces in part only."""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NoReturn

from outrider.core.errors import MissingExtraError, OptionError

if TYPE_CHECKING:  # processes that examine texts import this, and no PyTorch
    from jsonschema_rs import Validator

    from outrider.sampling.constraint import Constraint, Gate


def validated(constraint: "Constraint | None", text: str) -> bool | None:
    """Return whether `text` is JSON of the schema; None where the grammar enforces all of it, and
    without a constraint. Where a gate limits the grammar to parts of the text, these are checked;
    None if there are none, or if the text does not show where they begin.

    Raises:
        MissingExtraError: jsonschema-rs is not installed.
    """
    if constraint is None or constraint.enforced:
        return None
    validator = validator_of(constraint.source)
    parts = [text] if constraint.gate is None else list(_parts(text, constraint.gate))
    return all(is_valid(validator, part) for part in parts) if parts else None


def is_valid(validator: "Validator", text: str) -> bool:
    """Return whether `text` is JSON that a validator accepts."""
    try:
        return validator.is_valid(json.loads(text))
    except (ValueError, RecursionError):
        return False


def _parts(text: str, gate: "Gate") -> Iterator[str]:
    """Yield the parts of a text between the marks of a gate."""
    _, mark, rest = text.partition(gate.open)
    while mark:
        part, _, rest = rest.partition(gate.close) if gate.close is not None else (rest, "", "")
        yield part
        _, mark, rest = rest.partition(gate.open) if gate.repeat else ("", "", "")


@lru_cache(maxsize=64)
def validator_of(schema: str) -> "Validator":
    """Return the validator of a schema, given as JSON. Formats are checked; nothing is fetched.

    Raises:
        MissingExtraError: jsonschema-rs is not installed.
        OptionError: it is no valid schema, or refers to one elsewhere.
    """
    try:
        import jsonschema_rs
    except ImportError:
        raise MissingExtraError("jsonschema-rs", "constraints") from None
    try:
        return jsonschema_rs.validator_for(
            json.loads(schema), validate_formats=True, retriever=_refuse
        )
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise OptionError(f"the JSON schema is not valid: {reason}") from None


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is not fetched")
