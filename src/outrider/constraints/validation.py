"""Whether a text follows its JSON schema, for schemas that the grammar enforces in part only."""

import json
from functools import lru_cache
from typing import TYPE_CHECKING, NoReturn

from outrider.core.errors import MissingExtraError, OptionError

if TYPE_CHECKING:  # processes that examine texts import this, and no PyTorch
    from jsonschema_rs import Validator

    from outrider.sampling.constraint import Constraint


def validated(constraint: "Constraint | None", text: str) -> bool | None:
    """Return whether `text` is JSON of the schema; None where the grammar enforces all of it, and
    without a constraint.

    Raises:
        MissingExtraError: jsonschema-rs is not installed.
    """
    if constraint is None or constraint.enforced:
        return None
    validator = validator_of(constraint.source)
    try:
        return validator.is_valid(json.loads(text))
    except (ValueError, RecursionError):
        return False


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
