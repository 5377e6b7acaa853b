"""Metrics: every name of vLLM that dashboards use, and counts that add up."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from outrider.server.metrics import gaps
from tests.server.setups import CHAT, QUICK, Running

GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
COUNTERS = (
    *("num_preemptions", "prompt_tokens", "generation_tokens", "prefix_cache_queries"),
    *("prefix_cache_hits", "request_success", "spec_decode_num_drafts"),
    *("spec_decode_num_draft_tokens", "spec_decode_num_accepted_tokens"),
    "spec_decode_num_accepted_tokens_per_pos",
)
HISTOGRAMS = (
    *("time_to_first_token_seconds", "inter_token_latency_seconds"),
    *("time_per_output_token_seconds", "request_time_per_output_token_seconds"),
    *("e2e_request_latency_seconds", "request_queue_time_seconds", "request_prompt_tokens"),
    *("request_prefill_time_seconds", "request_decode_time_seconds"),
    *("request_inference_time_seconds", "request_generation_tokens", "request_params_n"),
    *("request_max_num_generation_tokens", "request_params_max_tokens", "iteration_tokens_total"),
)
OWN = (
    *("tokens_by_source", "changed_tokens", "round_seconds", "draft_budget_tokens"),
    *("requests_rejected", "disconnects", "engine_heartbeat_age_seconds", "http_requests"),
    *("constraint_violations", "constraint_texts_checked", "constraint_requests"),
    *("constraint_refused", "constraint_compile_seconds", "constraint_cache_hits"),
    *("constraint_errors", "mask_seconds", "http_request_duration_seconds", "engine_steps"),
    *("learner_updates", "learner_corrections", "guard_state", "guard_switches"),
)


def values(served: Running) -> dict[str, float]:
    """Sums of all samples by name, without buckets."""
    found: dict[str, float] = {}
    text = served.get("/metrics").body.decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def test_every_name_is_there_once(served: Running) -> None:
    served.post(CHAT, QUICK)
    assert served.idle()
    answer = served.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.body.decode().splitlines()
    types = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE"))
    assert len(types) == sum(line.startswith("# TYPE") for line in lines)
    for prefix in ("outrider:", "vllm:"):
        assert all(types[prefix + name] == "gauge" for name in GAUGES)
        assert all(types[f"{prefix}{name}_total"] == "counter" for name in COUNTERS)
        assert all(types[prefix + name] == "histogram" for name in HISTOGRAMS)
    names = set(types)
    for name in OWN:
        assert {f"outrider:{name}", f"outrider:{name}_total"} & names, name
        assert not {f"vllm:{name}", f"vllm:{name}_total"} & names, name
    assert 'model_name="tiny"' in answer.body.decode() and "_created" not in answer.body.decode()


def test_counts_add_up(served: Running) -> None:
    assert served.idle()
    before = values(served)
    answers = [served.post(CHAT, QUICK | {"seed": seed, "n": 2}).json for seed in range(3)]
    assert served.idle()
    after = values(served)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    tokens = sum(answer["usage"]["completion_tokens"] for answer in answers)
    for prefix in ("outrider:", "vllm:"):
        assert grown[f"{prefix}generation_tokens_total"] == tokens
        assert grown[f"{prefix}request_success_total"] == 6
        assert grown[f"{prefix}time_to_first_token_seconds_count"] == 6
        assert grown[f"{prefix}e2e_request_latency_seconds_count"] == 6
        assert grown[f"{prefix}request_params_n_sum"] == 6
        assert grown[f"{prefix}request_generation_tokens_sum"] == tokens
        assert after[f"{prefix}num_requests_running"] == 0
        assert after[f"{prefix}num_requests_waiting"] == 0
    assert grown["outrider:tokens_by_source_total"] == tokens
    assert grown["outrider:spec_decode_num_accepted_tokens_total"] == pytest.approx(
        # without drafts there is no series
        grown.get("outrider:spec_decode_num_accepted_tokens_per_pos_total", 0.0)
    )
    # the log of a request may be written shortly after its answer
    assert grown["outrider:http_requests_total"] >= 3


def test_times_between_tokens() -> None:
    assert list(gaps([])) == [] and list(gaps([1.0])) == [] and list(gaps([1.0, 1.0])) == []
    assert list(gaps([1.0, 3.0, 3.0, 4.0])) == [1.0, 1.0, 1.0]
    assert list(gaps([1.0, 1.0, 2.0])) == [1.0]


def test_load_and_version(served: Running) -> None:
    assert served.idle()
    found = served.get("/load").json
    assert found["server_load"] == found["running"] == found["waiting"] == 0
    assert found["cache_size_tokens"] > 0 and found["drafting_off"] is None
    assert set(served.get("/version").json) == {"version"}
    schema = served.get("/openapi.json").json
    assert "ChatBody" in schema["components"]["schemas"]
    assert CHAT in schema["paths"] and "/v1/completions" in schema["paths"]
