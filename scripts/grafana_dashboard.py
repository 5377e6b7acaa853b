"""Write the dashboard of the server for Grafana: `python -m scripts.grafana_dashboard`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "deploy/grafana/outrider.json"

_OWN = 'model_name=~"$model", instance=~"$instance"'
"""Labels of the metrics of the engine. Those of HTTP have no model."""

_WIDTH, _HEIGHT = 8, 8
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel.

    Attributes:
        title: the title.
        note: what it shows, and when it has no data.
        unit: the unit, in Grafana's names.
        queries: by the name of each line. `%` stands for the labels, and `RATE` for the window.
        stacked: lines are stacked.
        least: smallest value of the axis.
        most: largest value of the axis; None follows the data.
    """

    title: str
    note: str
    unit: str
    queries: dict[str, str]
    stacked: bool = False
    least: float = 0.0
    most: float | None = None


def _rate(name: str, by: str = "") -> str:
    grouped = f"sum by ({by}) " if by else "sum"
    return f"{grouped}(rate(outrider:{name}{{%}}[RATE]))"


def _quantiles(name: str) -> dict[str, str]:
    """Return the queries of three quantiles of a histogram."""
    buckets = _rate(f"{name}_bucket", "le")
    return {f"p{int(100 * q)}": f"histogram_quantile({q}, {buckets})" for q in (0.5, 0.95, 0.99)}


def _mean(name: str) -> str:
    return f"{_rate(f'{name}_sum')} / {_rate(f'{name}_count')}"


_SPEC = "spec_decode_num"
_SECONDS, _COUNT, _SHARE = "s", "short", "percentunit"


def _stacked_rate(title: str, note: str, name: str, by: str) -> Panel:
    """Return a panel of a counter per second, with one stacked line for each value of a label."""
    queries = {f"{{{{{by}}}}}": _rate(name, by)}
    return Panel(title=title, note=note, unit=_COUNT, queries=queries, stacked=True)


ROWS: dict[str, tuple[Panel, ...]] = {
    "Load": (
        Panel(
            title="Samples",
            note="Samples that run and that wait.",
            unit=_COUNT,
            queries={
                "running": "sum(outrider:num_requests_running{%})",
                "waiting": "sum(outrider:num_requests_waiting{%})",
            },
        ),
        Panel(
            title="Tokens per second",
            note="Tokens of prompts that were read, and tokens that were written.",
            unit=_COUNT,
            queries={
                "read": _rate("prompt_tokens_total"),
                "written": _rate("generation_tokens_total"),
            },
        ),
        _stacked_rate(
            "Samples that ended, per second",
            "By reason: stop, length, cancelled (the client left) or error.",
            "request_success_total",
            by="finished_reason",
        ),
        _stacked_rate(
            "Requests refused, per second",
            "By code of the error. No data until the first request is refused.",
            "requests_rejected_total",
            by="reason",
        ),
        _stacked_rate(
            "Clients that left early, per second",
            "By what their request was doing. No data until the first client leaves.",
            "disconnects_total",
            by="phase",
        ),
        Panel(
            title="HTTP requests per second",
            note="By status.",
            unit=_COUNT,
            queries={
                "{{status}}": 'sum by (status) (rate(outrider:http_requests_total{instance=~"'
                '$instance"}[RATE]))'
            },
            stacked=True,
        ),
    ),
    "Latency": (
        Panel(
            title="Time to first token",
            note="From the arrival of a request until its first token.",
            unit=_SECONDS,
            queries=_quantiles("time_to_first_token_seconds"),
        ),
        Panel(
            title="Time between tokens",
            note="The time of a round, divided by the tokens that it wrote.",
            unit=_SECONDS,
            queries=_quantiles("inter_token_latency_seconds"),
        ),
        Panel(
            title="Time of a sample",
            note="From the arrival of a request until the end of its answer.",
            unit=_SECONDS,
            queries=_quantiles("e2e_request_latency_seconds"),
        ),
        Panel(
            title="Phases of a sample",
            note="Mean time in the queue, of reading the prompt, and of writing.",
            unit=_SECONDS,
            queries={
                "queue": _mean("request_queue_time_seconds"),
                "reading": _mean("request_prefill_time_seconds"),
                "writing": _mean("request_decode_time_seconds"),
            },
            stacked=True,
        ),
        Panel(
            title="Tokens of a sample",
            note="Mean tokens of prompts and answers.",
            unit=_COUNT,
            queries={
                "prompt": _mean("request_prompt_tokens"),
                "answer": _mean("request_generation_tokens"),
            },
        ),
        Panel(
            title="Tokens of a step",
            note="Mean tokens that a step of the engine reads and writes.",
            unit=_COUNT,
            queries={"tokens": _mean("iteration_tokens_total")},
        ),
    ),
    "Speculation": (
        Panel(
            title="Acceptance",
            note="Accepted share of the drafted tokens. No data while nothing is drafted.",
            unit=_SHARE,
            queries={
                "accepted": f"{_rate(f'{_SPEC}_accepted_tokens_total')}"
                f" / {_rate(f'{_SPEC}_draft_tokens_total')}"
            },
            most=1.0,
        ),
        Panel(
            title="Acceptance by position",
            note="Share of the drafts whose token at this position was accepted; the first is 0.",
            unit=_SHARE,
            queries={
                "{{position}}": f"{_rate(f'{_SPEC}_accepted_tokens_per_pos_total', 'position')}"
                f" / scalar({_rate(f'{_SPEC}_drafts_total')})"
            },
            most=1.0,
        ),
        Panel(
            title="Tokens by source",
            note="Share of the tokens that each tier or drafter wrote.",
            unit=_SHARE,
            queries={
                "{{source}}": f"{_rate('tokens_by_source_total', 'source')}"
                f" / scalar({_rate('tokens_by_source_total')})"
            },
            stacked=True,
            most=1.0,
        ),
        Panel(
            title="Draft budget",
            note="Drafted tokens that the newest step allowed for all samples together. It falls "
            "to 0 where verification would cost more than it gains.",
            unit=_COUNT,
            queries={"tokens": "sum(outrider:draft_budget_tokens{%})"},
        ),
        Panel(
            title="Time of rounds",
            note="Share of the time by part of a round.",
            unit=_SHARE,
            queries={
                "{{part}}": f"{_rate('round_seconds_total', 'part')}"
                f" / scalar({_rate('round_seconds_total')})"
            },
            stacked=True,
            most=1.0,
        ),
        Panel(
            title="Changed tokens",
            note="Share of the tokens that are not the target's choice; 0 in mode exact.",
            unit=_SHARE,
            queries={
                "changed": f"{_rate('changed_tokens_total')} / {_rate('generation_tokens_total')}"
            },
        ),
    ),
    "Engine": (
        Panel(
            title="Caches",
            note="Used share of the caches, prefixes that are kept included.",
            unit=_SHARE,
            queries={"{{instance}}": "outrider:kv_cache_usage_perc{%}"},
            most=1.0,
        ),
        Panel(
            title="Reused prompt tokens",
            note="Share of the tokens of prompts that did not have to be read.",
            unit=_SHARE,
            queries={
                "reused": f"{_rate('prefix_cache_hits_total')}"
                f" / {_rate('prefix_cache_queries_total')}"
            },
            most=1.0,
        ),
        Panel(
            title="Preemptions per second",
            note="Samples that gave up their place because caches were full.",
            unit=_COUNT,
            queries={"preemptions": _rate("num_preemptions_total")},
        ),
        Panel(
            title="Time without a step",
            note="0 while nothing waits. A value that grows shows an engine that makes no steps.",
            unit=_SECONDS,
            queries={"{{instance}}": "outrider:engine_heartbeat_age_seconds{%}"},
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """Return the dashboard in Grafana's classic model."""
    return {
        "uid": "outrider",
        "title": "Outrider",
        "description": "A server of Outrider: load, latency, speculation and caches.",
        "tags": ["outrider", "llm"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": _variables()},
        "panels": _panels(),
    }


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Source", "type": "datasource", "query": "prometheus"}
    return [
        source,
        _variable("model", "Model", "label_values(outrider:num_requests_running, model_name)"),
        _variable("instance", "Server", "label_values(outrider:num_requests_running, instance)"),
    ]


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    top = 0
    for title, panels in ROWS.items():
        place = {"x": 0, "y": top, "w": 24, "h": 1}
        found.append({"id": len(found) + 1, "type": "row", "title": title, "gridPos": place})
        found[-1] |= {"collapsed": False, "panels": []}
        top += 1
        for at, panel in enumerate(panels):
            down, across = divmod(at, 24 // _WIDTH)
            place = {"x": across * _WIDTH, "y": top + down * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            found.append({"id": len(found) + 1, "gridPos": place} | _panel(panel))
        top += -(-len(panels) // (24 // _WIDTH)) * _HEIGHT
    return found


def _panel(panel: Panel) -> dict[str, Any]:
    limits = {"min": panel.least} | ({} if panel.most is None else {"max": panel.most})
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 30 if panel.stacked else 10,
        "showPoints": "never",
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
    }
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.note,
        "datasource": _SOURCE,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "custom": custom} | limits,
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": _SOURCE,
                "expr": query.replace("%", _OWN).replace("RATE", "$__rate_interval"),
                "legendFormat": name,
                "range": True,
            }
            for at, (name, query) in enumerate(panel.queries.items())
        ],
    }


def main() -> None:
    """Write the file."""
    FILE.write_text(json.dumps(dashboard(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
