"""`--kv-policy` and its like: the text is the library's; mistakes cost one line."""

import pytest

import outrider
from outrider.bench.config import make_settings
from outrider.core.errors import OptionError
from tests.cli.conftest import Family, Run

PROMPT = "Once upon a time there was a dog in a house"
SHORT = ["--max-new-tokens", "12", "--raw", "--temperature", "0", "--seed", "1"]
OPTIONS = {"max_new_tokens": 12, "temperature": 0.0, "seed": 1}


def test_a_policy_of_the_target(family: Family, run: Run) -> None:
    one = ["generate", PROMPT, *family.alone, *SHORT]
    given = ["--kv-policy", "snapkv(window=4)", "--kv-budget", "20%"]
    found = run(*one, *given, "--json").json
    kept = outrider.load(
        str(family.target), mode="none", kv_policy="snapkv(window=4)", kv_budget=0.2
    )
    own = kept.generate(PROMPT, **OPTIONS)
    assert (found["text"], found["cache"]) == (own.text, own.cache)
    assert found["cache"]["policy"] == "snapkv(budget=0.2,window=4)"
    plain = run(*one, "--json").json
    assert plain["token_ids"] != found["token_ids"] and "cache" not in plain
    shown = run(*one, *given)
    assert "cache snapkv(budget=0.2,window=4) (" in shown.err and "all rows" in shown.err
    long = run(*one, "--kv-policy", "snapkv", "--kv-budget", "1024", "--json").json
    assert long["cache"]["policy"] == "snapkv" and long["token_ids"] == plain["token_ids"]


def test_a_policy_of_the_drafts(family: Family, run: Run) -> None:
    one = ["generate", PROMPT, *SHORT, *family.two, "--drafter", "model"]
    one += ["--num-speculative-tokens", "3"]  # whatever drafting costs at the moment
    given = ["--draft-kv-policy", "h2o", "--draft-kv-budget", "0.3"]
    found = run(*one, *given, "--json").json
    assert found["token_ids"] == run(*one, "--json").json["token_ids"]
    assert found["cache"]["draft_policy"] == "h2o(budget=0.3)" and "policy" not in found["cache"]
    assert found["cache"]["draft_bytes"] > 0
    assert found["speculation"]["exactness"] == "identical"
    assert "draft cache h2o(budget=0.3) (" in run(*one, *given).err


WRONG = {
    "unknown": (["--kv-policy", "h20"], "Did you mean 'h2o'"),
    "alone": (["--kv-budget", "0.3"], "Give kv_policy as well"),
    "words": (["--kv-policy", "h2o", "--kv-budget", "half"], "kv_budget is 'half'"),
    "no model": (["--draft-kv-policy", "h2o"], "no draft model runs below the target"),
    "no gates": (["--kv-policy", "duo"], "Write duo(gates=...)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_clear_line(case: str, family: Family, run: Run) -> None:
    options, message = WRONG[case]
    outcome = run("generate", PROMPT, *family.alone, *options)
    assert outcome.code == 2 and message in outcome.error


def test_info_shows_bytes(family: Family, run: Run) -> None:
    given = ["info", family.target, "--kv-policy", "snapkv", "--kv-budget", "32"]
    [found] = run(*given, "--json").json["models"]
    assert found["kv_policy"] == "snapkv(budget=32)" and found["kv_reads_whole"]
    [one] = found["kv_bytes"]  # 1,024 tokens exceed the window
    assert one["tokens"] == 256 and one["full"] == found["cache_bytes_of_window"]
    assert one["kept"] == one["full"] // 256 * 128  # 32 rows and 64 spare ones, in blocks of 64
    shown = run(*given).out.replace("\n", " ")
    assert "cache under" in shown and "held besides" in " ".join(shown.replace("│", " ").split())
    moved = run("info", family.target, "--kv-policy", "streaming(budget=64)", "--json").json
    tokens = [one["tokens"] for one in moved["models"][0]["kv_bytes"]]
    assert tokens == [1024, 8192, 256]  # texts may exceed the window
    assert "kv_policy" not in run("info", family.target, "--json").json["models"][0]
    assert "kv_budget is 'x'" in run(*given[:-1], "x").error


def test_a_bench_keeps_one_policy_of_the_target() -> None:
    settings = make_settings({"kv_policy": "h2o", "kv_budget": 0.3}, {})
    assert str(settings.models.caching.target) == "h2o(budget=0.3)"
    assert settings.to_dict()["models"]["kv_policy"] == "h2o"
    assert "kv_policy" not in make_settings({}, {}).to_dict()["models"]
    with pytest.raises(OptionError, match="all strategies of a run share"):
        make_settings({"strategies": "draft:kv_policy=h2o"}, {})
    own = make_settings({"strategies": "draft:draft_kv_policy=streaming(budget=64)"}, {})
    assert own.strategies[1].options["draft_kv_policy"] == "streaming(budget=64)"
    with pytest.raises(OptionError, match="rivals keep all rows"):
        make_settings({"kv_policy": "h2o", "rivals": ("huggingface",)}, {})
    with pytest.raises(OptionError, match="kv_budget is 'x'"):
        make_settings({"kv_policy": "h2o", "kv_budget": "x"}, {})
