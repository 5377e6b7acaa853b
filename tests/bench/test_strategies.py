"""Strategies by name, and settings from files and keywords."""

from pathlib import Path

import pytest

from outrider.bench.config import default_strategies, make_settings, read_config
from outrider.bench.settings import Models, changes
from outrider.bench.strategies import parse_strategies
from outrider.core.errors import OptionError


def options_of(text: str) -> dict[str, dict]:
    return {s.name: dict(s.options) for s in parse_strategies(text)}


def test_options_stand_behind_a_colon_and_commas_divide_both() -> None:
    found = options_of("draft:k=4,pyramid:q=6,k=2,none,fuzzy:max_changed=2%,threshold_target=80%")
    assert list(found) == [
        "none",
        "draft:k=4",
        "pyramid:q=6,k=2",
        "fuzzy:max_changed=2%,threshold_target=80%",
    ]
    assert found["draft:k=4"]["num_speculative_tokens"] == 4
    assert found["draft:k=4"]["drafter"] == "model"
    two = found["pyramid:q=6,k=2"]
    assert (two["num_qualified_tokens"], two["num_speculative_tokens"]) == (6, 2)
    fuzzy = found["fuzzy:max_changed=2%,threshold_target=80%"]
    assert fuzzy["mode"] == "fuzzy"
    assert fuzzy["max_changed"] == pytest.approx(0.02)
    assert fuzzy["threshold_target"] == "80%"


def test_the_baseline_always_leads() -> None:
    assert [s.name for s in parse_strategies("draft")] == ["none", "draft"]
    assert [s.name for s in parse_strategies("draft,none")] == ["none", "draft"]
    assert parse_strategies("draft")[0].is_baseline


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("draught", "unknown strategy 'draught'. Did you mean 'draft'?"),
        ("draft:num_speculativ_tokens=3", "Did you mean 'num_speculative_tokens'?"),
        ("draft:k", "Write key=value"),
        ("draft:k=", "Write key=value"),
        ("draft:dtype=int8", "Give --dtype to the command"),
        ("draft,draft", "given twice"),
        (" , ", "no strategy is given"),
    ],
)
def test_wrong_strategies_are_refused(text: str, expected: str) -> None:
    with pytest.raises(OptionError) as error:
        parse_strategies(text)
    assert expected in str(error.value)


def config(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "bench.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_config_file_names_strategies_and_the_command_line_wins(tmp_path: Path) -> None:
    file = config(
        tmp_path,
        """
        target = "tiny"
        repeats = 5
        workloads = ["qa", "copy"]
        temperature = 0.8

        [strategies.short]
        recipe = "draft"
        k = 2

        [strategies.pyramid]
        """,
    )
    settings = make_settings({"repeats": 2, "top_p": 0.9}, read_config(file))
    assert [s.name for s in settings.strategies] == ["none", "short", "pyramid"]
    assert settings.strategies[1].options["num_speculative_tokens"] == 2
    assert (settings.repeats, settings.workloads) == (2, ("qa", "copy"))
    assert settings.sampling["temperature"] == 0.8
    assert settings.sampling["top_p"] == 0.9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("repeat = 3", "Did you mean 'repeats'?"),
        ("repeats = 'three'", "Give a whole number"),
        ("repeats = 0", "Give at least 1"),
        ("temperature = -1", "temperature is -1"),
        ("strategies = 'draft'\nrepeats = ", "is not valid TOML"),
        ("[strategies.mine]\nrecipe = 'dragt'", "Did you mean 'draft'?"),
        ("[strategies.none]\nrecipe = 'draft'", "strategy 'none' is the undrafted baseline"),
        ("strategies = { mine = 3 }", "Write a table"),
        ("target = 3", "Give a string"),
        ("workloads = 3", "Give names"),
    ],
)
def test_wrong_config_files_are_refused(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as error:
        make_settings({}, read_config(config(tmp_path, text)))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_default_strategies_follow_the_models() -> None:
    assert default_strategies(Models()) == "none,draft,pyramid,lookup,auto"
    assert default_strategies(Models(qualifier="none")) == "none,draft,lookup,auto"
    assert default_strategies(Models(target="elsewhere")) == "none,lookup,auto"
    assert default_strategies(Models(target="elsewhere", draft="d")) == "none,draft,lookup,auto"


def test_changes_are_named() -> None:
    old = {"a": 1, "models": {"dtype": "int8", "threads": 2}}
    new = {"a": 1, "models": {"dtype": "float32", "threads": 2}, "b": 3}
    assert changes(old, new) == ["b: None, now 3", "models.dtype: 'int8', now 'float32'"]
