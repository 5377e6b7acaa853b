"""Writes the report of a run: JSON lines for programs, plots and one HTML page for readers."""

import base64
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from outrider.bench.report.plots import draw_plots, require_matplotlib
from outrider.bench.report.summary import best_rows
from outrider.bench.run import Measured
from outrider.core.errors import writing

__all__ = ["require_matplotlib", "write_lines", "write_report"]

Figures = Mapping[str, Any]
Row = Mapping[str, str]
_NONE = "–"


def write_lines(file: Path, measured: Measured, summary: Figures) -> None:
    """Write one JSON line for each text, then the summary."""
    with writing(file), file.open("w", encoding="utf-8") as out:
        for run in measured.runs:
            out.write(json.dumps({"kind": "run", **run.to_dict()}) + "\n")
        out.write(json.dumps({"kind": "summary", **summary}) + "\n")


def write_report(folder: Path, summary: Figures) -> Path:
    """Write plots as PNG, `summary.json`, and a self-contained `index.html`; return the page.

    Raises `MissingExtraError` without matplotlib.
    """
    page = folder / "index.html"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(summary, indent=2)
        (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
        plots = draw_plots(summary, folder)
        page.write_text(_page(summary, plots), encoding="utf-8")
    return page


def _page(summary: Figures, plots: Mapping[str, Path]) -> str:
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        label=f'<p class="label">{_text(summary["label"])}</p>' if summary["label"] else "",
        warnings="".join(f'<p class="wrong">{_text(line)}</p>' for line in _mismatches(summary)),
        facts=_table(list(_facts(summary))),
        models=_table(list(_models(summary))),
        workloads="".join(_workloads(summary)),
        rivals="".join(_rivals(summary)),
        costs=_table(list(_costs(summary))),
        plots="".join(_image(title, file) for title, file in plots.items()),
        settings=_text(json.dumps(summary["settings"], indent=2)),
    )


def _image(title: str, file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<figure><img alt="{_text(title)}" src="data:image/png;base64,{data}"></figure>'


def _facts(summary: Figures) -> Iterator[Row]:
    device = summary["device"]
    facts = {
        "command": summary["command"],
        "finished": summary["created"],
        "commit": summary["commit"] or "not in git",
        "device": ", ".join(str(value) for value in device.values()),
        "threads": summary["threads"],
        "versions": ", ".join(f"{name} {v}" for name, v in summary["versions"].items()),
        "sampling": ", ".join(f"{k} {v}" for k, v in summary["settings"]["sampling"].items()),
        "repeats": summary["settings"]["repeats"],
    }
    for name, value in facts.items():
        yield {"": name, "this run": str(value)}


def _models(summary: Figures) -> Iterator[Row]:
    for tier, model in summary["models"].items():
        yield {
            "model": tier,
            "from": model["source"],
            "parameters": f"{model['parameters']:,}",
            "dtype": model["dtype"],
            "cost-scaled": model["cost_scale"] or "no",
            "fingerprint": model["fingerprint"][:12],
        }


def _workloads(summary: Figures) -> Iterator[str]:
    for name, workload in summary["workloads"].items():
        rows = [_system(system, f) for system, f in workload["systems"].items()]
        title = "all workloads" if name == "all" else name
        yield f"<h3>{_text(title)}, {workload['timed_prompts']} prompts</h3>{_table(rows)}"


def _system(name: str, f: Figures) -> Row:
    return {
        "system": name,
        "promise": f.get("exactness", f.get("precision", "")),
        "tokens/s": _spread(f["tokens_per_second"], 0),
        "speedup": _ratio(f["speedup"]),
        "decoding": _ratio(f["decode_speedup"]),
        "TTFT, ms": _spread(f["ttft_ms"], 1),
        "TPOT, ms": _spread(f["tpot_ms"], 2),
        "accepted": f"{f['acceptance_rate']:.1%}" if f.get("drafted") else _NONE,
        "tokens per forward": f"{f['block_efficiency']:.2f}" if "block_efficiency" in f else _NONE,
        "changed": f"{f['changed_share']:.1%}" if "changed_share" in f else _NONE,
        "loops": f"{f['repeated_share']:.1%}",
        "peak resident, MiB": f"{f['peak_resident_bytes'] / 2**20:.0f}",
    }


def _rivals(summary: Figures) -> Iterator[str]:
    rows = [
        {"workload": workload, "rival": rival} | {name: _ratio(r) for name, r in ratios.items()}
        for workload, figures in summary["workloads"].items()
        for rival, ratios in figures["against_rivals"].items()
    ]
    if rows:
        yield "<h2>Against rivals</h2><p>Our fastest exact strategy against the fastest:</p>"
        yield _table(list(best_rows(summary, _ratio, _NONE)))
        yield "<p>How many times faster each strategy is:</p>"
        yield _table(rows)
    about = summary["rivals"]
    for name, texts in about["same_text"].items():
        share = "no" if texts["equal_tokens"] is None else f"{texts['equal_tokens']:.1%} of"
        yield (
            f"<p>{_text(name)}, compared in float32: {texts['equal_texts']} of "
            f"{texts['texts']} texts are the same as ours, {share} tokens.</p>"
        )
    for name, reason in about["missing"].items():
        yield f"<p>{_text(name)} was not measured: <code>{_text(reason)}</code></p>"


def _costs(summary: Figures) -> Iterator[Row]:
    for tier, cost in summary["costs"].items():
        yield {
            "model": tier,
            "parameters": f"{cost['parameters']:,}",
            "dtype": cost["dtype"],
            "1 row, ms": f"{cost['ms']['1']:.3f}",
            **{f"{n} rows": f"{ratio:.2f}x" for n, ratio in cost["verify_cost"].items()},
            "floor, ms": f"{cost['floor_ms']:.3f}",
            "floor / 1 row": f"{cost['floor_share']:.0%}",
            "bandwidth, GB/s": f"{cost['bandwidth_gb_s']:.1f}",
        }


def _mismatches(summary: Figures) -> Iterator[str]:
    for m in summary["mismatches"]:
        margin = "one text ends" if m["margin"] is None else f"margin {m['margin']:.2g}"
        where = f"{m['system']} on {m['task']}"
        yield f"{where} differs from undrafted at token {m['index']} ({margin})"


def _table(rows: Sequence[Row]) -> str:
    """Format records as an HTML table with the columns of the first record."""
    if not rows:
        return "<p>Not measured.</p>"
    head = "".join(f"<th>{_text(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(row.get(name, _NONE))}</td>" for name in rows[0]) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _spread(spread: Figures | None, digits: int) -> str:
    if spread is None:
        return _NONE
    low, middle, high = (f"{spread[k]:.{digits}f}" for k in ("min", "median", "max"))
    return f"{middle} ({low} to {high})"


def _ratio(ratio: Figures | None) -> str:
    return (
        _NONE if ratio is None else f"{ratio['mean']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))
