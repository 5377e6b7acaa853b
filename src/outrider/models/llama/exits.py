"""The file `exits.json` beside a checkpoint: its trained early exits, and thresholds by target."""

import json
import stat
from pathlib import Path

from outrider.core.errors import CheckpointError, OptionError
from outrider.core.layers import Exits

FILE = "exits.json"
FORMAT = "outrider-exits-1"
_MOST_BYTES = 1 << 20


def read_exits(folder: Path) -> Exits | None:
    """Return the exits of the checkpoint in `folder`; None if there is no such file.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = folder / FILE
    try:
        found = file.stat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
        raise _damaged(file, "it is no regular file, or too large")
    try:
        facts = json.loads(file.read_bytes())
        if facts["format"] != FORMAT:
            raise _damaged(file, f"its format is {facts['format']!r:.40}, not {FORMAT!r}")
        thresholds = {
            str(target): tuple(float(one) for one in values)
            for target, values in facts.get("thresholds", {}).items()
        }
        return Exits(layers=tuple(int(one) for one in facts["exits"]), thresholds=thresholds)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(file, f"{type(error).__name__}: {str(error)[:60]}") from None
    except OptionError as error:
        raise _damaged(file, str(error.problem)) from None


def _damaged(file: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{file} cannot be used: {problem}",
        hint="Remove it, or give a folder that `outrider train exits` has written",
    )
