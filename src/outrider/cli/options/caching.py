"""Options of policies of the caches: which rows of a text they keep."""

from dataclasses import dataclass
from typing import Annotated, Any

from outrider.cli.options.groups import given_fields
from outrider.cli.options.numbers import share_or_count
from outrider.cli.options.options import option
from outrider.strategy.catalogue import names

PANEL = "Cache"


@dataclass(frozen=True, kw_only=True, slots=True)
class Caching:
    """Options that name policies, and their budgets."""

    kv_policy: Annotated[
        str | None,
        option(
            panel=PANEL,
            metavar="NAME|EXPRESSION",
            autocompletion=lambda: names("kv-policy"),
            help="Which rows of a text the cache of the target keeps: "
            f"{', '.join(names('kv-policy'))}; with options, as 'snapkv(window=32)'; `outrider "
            "methods --kind kv-policy` describes them. The text is that of a model that reads "
            "fewer rows, whatever drafts. Default: all rows.",
        ),
    ] = None
    kv_budget: Annotated[
        str | None,
        option(
            panel=PANEL,
            metavar="SHARE|ROWS",
            help="What --kv-policy keeps of each head: a share of the rows, such as 0.25 or 25%, "
            "or a number of rows, such as 1024. Default: that of the policy.",
        ),
    ] = None
    draft_kv_policy: Annotated[
        str | None,
        option(
            panel=PANEL,
            metavar="NAME|EXPRESSION",
            autocompletion=lambda: names("kv-policy"),
            help="The same for the models below the target. In mode exact the text does not "
            "change: drafts of long texts cost less, and fewer of them may be accepted.",
        ),
    ] = None
    draft_kv_budget: Annotated[
        str | None,
        option(
            panel=PANEL,
            metavar="SHARE|ROWS",
            help="What --draft-kv-policy keeps of each head.",
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """Return keywords of `load`. Raises `OptionError` for a budget that is no number."""
        return {
            name: share_or_count(name, value) if name.endswith("budget") else value
            for name, value in given_fields(self).items()
        }
