"""Shows a selection as a page without scripts: the text, shaded by reading time of chunks."""

from html import escape
from itertools import groupby

import numpy as np

from outrider.context.explain.history import History
from outrider.context.reading import Reading

_MOST_POINTS = 80
_WIDTH, _HEIGHT = 220, 56
_LEAST_SHADE = 0.15
"""Minimum shade, so that every chunk that was read is visible."""

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --ink: #1c2330; --soft: #667085;
  --tint: #0f9d83; --line: #e2e4e8; --panel: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --ink: #e6e8ec; --soft: #98a1b0;
  --tint: #2fbf9f; --line: #2a303a; --panel: #1d222a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.2rem 6rem; background: var(--paper);
  color: var(--ink); font: 16px/1.6 system-ui, sans-serif; }
h1 { font-size: 1.35rem; margin: 0 0 .3rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .6rem; }
.soft, .gutter, dt { color: var(--soft); }
dl { display: flex; flex-wrap: wrap; gap: .3rem 1.6rem; margin: .8rem 0; }
dl div { display: flex; gap: .45rem; } dt, dd { margin: 0; } dd { font-weight: 600; }
.legend { display: flex; align-items: center; gap: .6rem; font-size: .88rem; margin: 1rem 0; }
.legend i { width: 11rem; height: .9rem; border-radius: .2rem; border: 1px solid var(--line);
  background: linear-gradient(90deg, transparent, color-mix(in srgb, var(--tint) 36%, transparent));
}
blockquote { margin: .6rem 0; padding: .5rem .9rem; border-left: 3px solid var(--tint);
  background: var(--panel); white-space: pre-wrap; overflow-wrap: anywhere; }
.chunk { position: relative; display: grid; grid-template-columns: 5.2rem 1fr; gap: .9rem;
  border-top: 1px solid var(--line); content-visibility: auto;
  contain-intrinsic-size: auto 16rem; }
.chunk:hover, .chunk:focus-within { content-visibility: visible; }
.gutter { padding: .45rem 0; font-size: .8rem; line-height: 1.35; text-align: right;
  font-variant-numeric: tabular-nums; cursor: help; }
.gutter b { color: var(--ink); }
.text { padding: .4rem .7rem; white-space: pre-wrap; overflow-wrap: anywhere;
  background: color-mix(in srgb, var(--tint) calc(var(--read) * 36%), transparent); }
.never .text { color: var(--soft); }
.why { display: none; position: absolute; z-index: 2; left: 5.8rem; top: .4rem;
  padding: .6rem .8rem; background: var(--panel); border: 1px solid var(--line);
  border-radius: .4rem; font-size: .82rem; box-shadow: 0 4px 18px rgb(0 0 0 / .18);
  color: var(--ink); text-align: left; }
.gutter:hover .why, .gutter:focus .why { display: block; }
.why svg { display: block; margin-top: .35rem; overflow: visible; }
.why polyline { fill: none; stroke: var(--tint); stroke-width: 2; }
.why rect { fill: var(--tint); opacity: .22; } .why line { stroke: var(--line); }
@media (max-width: 40rem) { .chunk { grid-template-columns: 1fr; gap: 0; }
  .gutter { text-align: left; } .why { left: 0; top: 1.8rem; } }
"""


def page(history: History, reading: Reading, answer: str = "") -> str:
    """Return one self-contained HTML file. All texts in it are escaped."""
    context = history.context
    order = list(range(len(context.chunks)))
    several = len(set(context.names)) > 1
    shares = history.shares
    body: list[str] = []
    for name, chunks in groupby(order, key=history.name):
        if several:
            body.append(f"<h2>{escape(name)}</h2>")
        body += [_chunk(history, i, float(shares[i])) for i in chunks]
    title = escape(f"What was read: {', '.join(dict.fromkeys(context.names)) or 'a text'}"[:120])
    asked = escape(context.query.text)
    told = f"<h2>Answer</h2><blockquote>{escape(answer)}</blockquote>" if answer.strip() else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{title}</h1>{_figures(history, reading)}"
        f"<h2>Instruction</h2><blockquote>{asked}</blockquote>{told}"
        f"<h2>Text</h2>{_LEGEND}\n" + "\n".join(body) + "\n</body></html>\n"
    )


_LEGEND = (
    '<div class="legend"><span>never read</span><i></i><span>read for the whole answer</span>'
    '<span class="soft">Point at a number in the margin for its score over time.</span></div>'
)


def _figures(history: History, reading: Reading) -> str:
    context, chosen = history.context, reading.selection.chosen
    kept = sum(len(context.chunks[i]) for i in chosen)
    rows = {
        "tokens": f"{context.num_tokens:,}",
        "read at the end": f"{kept:,} ({kept / max(context.num_tokens, 1):.0%})",
        "chunks": f"{len(chosen)} of {len(context.chunks)}",
        "swaps": str(reading.swaps),
        "refreshes while writing": str(reading.refreshes),
        "selector": reading.selector,
        "encoder": reading.encoder or "none",
        "written": f"{history.times[-1]:,} tokens",
    }
    cells = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in rows.items())
    return f"<dl>{''.join(cells)}</dl>"


def _chunk(history: History, chunk: int, share: float) -> str:
    passage = history.context.chunks[chunk]
    text = escape(passage.text.strip("\n")) or f'<span class="soft">{len(passage)} tokens</span>'
    begun, score = history.context.starts[chunk] - history.context.start, history.scores[-1, chunk]
    state = "never" if share == 0 else "read"
    shade = max(share, _LEAST_SHADE) if share else 0.0
    return (
        f'<section class="chunk {state}" style="--read:{shade:.3f}">'
        f'<div class="gutter" tabindex="0"><b>{chunk}</b><br>{share:.0%} read<br>{score:.2f}'
        f'<div class="why">Chunk <b>{chunk}</b>: tokens {begun:,} to {begun + len(passage) - 1:,}.'
        f"<br>Read for {share:.0%} of the answer. {_course(history, chunk)}</div></div>"
        f'<div class="text">{text}</div></section>'
    )


def _course(history: History, chunk: int) -> str:
    """Draw the score over time as a line, with bands where the chunk is read."""
    scores, end = history.scores, history.times[-1]
    low, high = float(scores.min()), float(scores.max())
    span = (high - low) or 1.0
    shown = np.unique(np.linspace(0, len(scores) - 1, _MOST_POINTS).astype(int))

    def x(time: int) -> str:
        return f"{time / end * _WIDTH:.1f}"

    def y(score: float) -> str:
        return f"{(high - score) / span * _HEIGHT:.1f}"

    steps = [(history.times[i], float(scores[i, chunk])) for i in shown]
    steps.append((end, steps[-1][1]))
    line = " ".join(f"{x(at)},{y(score)}" for at, score in steps)
    bands = "".join(
        f'<rect x="{x(start)}" y="0" width="{(stop - start) / end * _WIDTH:.1f}" '
        f'height="{_HEIGHT}"/>'
        for start, stop in _reads(history, chunk)
    )
    return (
        f"Score {low:.2f} to {high:.2f}; shaded while read."
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img">{bands}'
        f'<line x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>'
        f'<polyline points="{line}"/></svg>'
    )


def _reads(history: History, chunk: int) -> list[tuple[int, int]]:
    """Return the intervals during which a chunk is read."""
    edges = np.flatnonzero(np.diff(np.r_[0, history.read[:, chunk].astype(int), 0]))
    return [(history.times[a], history.times[b]) for a, b in edges.reshape(-1, 2)]
