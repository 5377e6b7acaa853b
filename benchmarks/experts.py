"""The cost of a verification with experts: rows of one text go through different experts.

    python -m benchmarks.experts --out runs/experts

Two random models are measured in turns: one with experts, and one whose MLP is as large as the
experts that a row goes through. `touched` is the mean number of experts of a layer that the rows
choose together, and `expected` that of rows that choose independently of each other.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from outrider.core.types import Prompt, as_ids
from outrider.models.costs import forward_seconds
from outrider.models.cpu.formats import FORMATS
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.experts import Mixture
from outrider.protocols import Segment

_SHAPE: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
_WIDTHS = (1, 2, 4, 8)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--chosen", type=int, default=4)
    parser.add_argument("--inner", type=int, default=384, help="inner size of an expert")
    parser.add_argument("--dtypes", nargs="*", default=["float32", "int8"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, (args.out / "experts.jsonl").open("a") as log:
        folders = {kind: _write(Path(place) / kind, kind, args) for kind in ("experts", "dense")}
        shares = touched(folders["experts"])
        print("touched", {n: f"{share:.1f}" for n, share in shares.items()})
        for dtype in args.dtypes:
            for record in _measured(folders, dtype, args):
                record |= {"touched": shares, "expected": _expected(args)}
                log.write(json.dumps(record) + "\n")
                print(record["kind"], dtype, record["ms"], record["verify_cost"])


def _write(folder: Path, kind: str, args: argparse.Namespace) -> Path:
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    if kind == "dense":
        config = Qwen3Config(**_SHAPE, intermediate_size=args.inner * args.chosen)
        model: Any = Qwen3ForCausalLM(config)
    else:
        config = Qwen3MoeConfig(
            **_SHAPE,
            num_experts=args.experts,
            num_experts_per_tok=args.chosen,
            moe_intermediate_size=args.inner,
            norm_topk_prob=True,
        )
        model = Qwen3MoeForCausalLM(config)
    with torch.no_grad():  # the state of a row is mainly its own token, so that routers tell rows
        model.get_input_embeddings().weight.mul_(50)  # of one text apart
    model.save_pretrained(folder)
    return folder


def _expected(args: argparse.Namespace) -> dict[int, float]:
    share = args.chosen / args.experts
    return {n: args.experts * (1 - (1 - share) ** n) for n in _WIDTHS}


@contextmanager
def _choices() -> Iterator[list[Tensor]]:
    """Note the experts of all rows, layer by layer."""
    noted: list[Tensor] = []
    plain = Mixture.route

    def route(self: Mixture, x: Tensor) -> tuple[Tensor, Tensor]:
        weights, chosen = plain(self, x)
        noted.append(chosen)
        return weights, chosen

    Mixture.route = route
    try:
        yield noted
    finally:
        Mixture.route = plain


def touched(folder: Path, texts: int = 20) -> dict[int, float]:
    """Return the mean number of experts that n rows of random tokens choose in a layer."""
    model = Decoder.load(folder)
    found: dict[int, list[int]] = {n: [] for n in _WIDTHS}
    generator = torch.Generator().manual_seed(0)
    with _choices() as noted:
        for _ in range(texts):
            ids = torch.randint(0, model.info.vocab_size, (64,), generator=generator).tolist()
            [cache] = model.start([Prompt(token_ids=tuple(ids[:2]))])
            noted.clear()
            model.forward([Segment(cache, as_ids(ids[2:]))], [as_ids([0])])
            for n in _WIDTHS:
                found[n] += [len(chosen[-n:].unique()) for chosen in noted]
    return {n: sum(counts) / len(counts) for n, counts in found.items()}


def _measured(
    folders: dict[str, Path], dtype: str, args: argparse.Namespace
) -> Sequence[dict[str, Any]]:
    models = {
        kind: NativeDecoder.load(folder, dtype=FORMATS[dtype].dtype, threads=args.threads)
        for kind, folder in folders.items()
    }
    best: dict[str, dict[int, float]] = {kind: {} for kind in models}
    for _ in range(args.turns):
        for kind, model in models.items():
            seconds = forward_seconds(model, _WIDTHS, context=64, repeats=7, summary=min)
            for n, one in seconds.items():
                best[kind][n] = min(one, best[kind].get(n, one))
    return [
        {
            "kind": kind,
            "dtype": dtype,
            "threads": args.threads,
            "parameters": models[kind].info.num_parameters,
            "bytes_of_a_row": models[kind].info.weight_bytes,
            "ms": {n: round(1000 * one, 3) for n, one in times.items()},
            "verify_cost": {n: round(one / times[1], 2) for n, one in times.items()},
        }
        for kind, times in best.items()
    ]


if __name__ == "__main__":
    main()
