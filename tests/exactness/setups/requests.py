"""Random requests: batches of prompts with random settings, at random families of tables."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from outrider.decoding import Stage
from outrider.decoding.generation import Generation
from tests.exactness.setups.rigs import Family, run, tabular_family, undrafted


@dataclass(frozen=True)
class Asked:
    """Prompts and settings for the models of one family."""

    family: int
    prompts: list[list[int]]
    options: dict[str, Any]


def requests(most_tokens: int = 30) -> st.SearchStrategy[Asked]:
    """One to four prompts of one to six tokens."""
    prompt = st.lists(st.integers(0, 6), min_size=1, max_size=6)
    options = {
        "seed": st.integers(0, 2**40),
        "temperature": st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        "max_new_tokens": st.integers(1, most_tokens),
        "end_ids": st.sampled_from([(), (0,), (0, 3)]),
    }
    return st.builds(
        Asked,
        family=st.integers(0, 5),
        prompts=st.lists(prompt, min_size=1, max_size=4),
        options=st.fixed_dictionaries(options),
    )


def assert_each_is_undrafted_alone(
    asked: Asked, build: Callable[[Family], Stage]
) -> list[Generation]:
    """In one drafted batch each prompt has the text that it has alone and undrafted."""
    whole = build(tabular_family(seed=asked.family))
    drafted = run(whole, asked.prompts, **asked.options)
    for prompt, g in zip(asked.prompts, drafted, strict=True):
        [alone] = run(undrafted(whole), [prompt], **asked.options)
        assert g.output == alone.output
        assert g.finish == alone.finish
    return drafted
