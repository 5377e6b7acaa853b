"""Help, wrong inputs, and texts by drafter, tree, mode and dtype."""

from collections.abc import Iterator

from scripts.golden.calls import CHAINS, PROMPT, WORK, Case, call, written

FREE = [
    "lookup",
    "copyspec",
    "sam",
    "suffix",
    "recycling",
    "aded",
    "stand",
    "iad",
    "lookahead",
    "swift",
    "del",
    "skip",
]


TREES = ["top-k", "eagle2", "dyspec", "rsd-c", "rsd-s"]


def helps() -> Iterator[tuple[str, Case]]:
    """What `--help` says of every command."""
    groups = {"train": ["family", "vision-family", "vizer"], "datastore": ["build", "info"]}
    groups["bench"] = ["run", "speed", "verify-cost"]
    names = "generate summarize caption chat demo info drafters calibrate train bench datastore"
    yield "help", lambda: call("--help", exact=True)
    yield "help version", lambda: call("--version", exact=True)
    for name in names.split():
        yield f"help {name}", lambda name=name: call(name, "--help", exact=True)
        for sub in groups.get(name, []):
            yield (
                f"help {name} {sub}",
                lambda name=name, sub=sub: call(name, sub, "--help", exact=True),
            )


def generating() -> Iterator[tuple[str, Case]]:
    """Texts of every drafter, tree, mode, dtype and sampling option."""
    common = ["generate", PROMPT, "--max-new-tokens", "40", "--seed", "3", "--json"]
    warm = ["--temperature", "0.8", "--top-p", "0.95"]

    def case(*more: object) -> Case:
        return lambda: call(*common, *more)

    for name in [*FREE, "model", "pyramid", "none", "auto"]:
        size = "--num-speculative-tokens" if name in CHAINS else "--num-draft-nodes"
        fixed = [] if name in ("none", "auto") else [size, "6"]
        if name == "pyramid":
            fixed += ["--num-qualified-tokens", "9"]
        for dtype in ("int8", "float32", "float64"):
            for temperature in ([], warm) if dtype != "float64" else (warm,):
                label = f"generate {name} {dtype} {'sampled' if temperature else 'greedy'}"
                options = ["--drafter", name, "--dtype", dtype, *fixed, *temperature]
                made = case(*options)
                yield label, (lambda made=made: written(made())) if name == "auto" else made
    for tree in TREES:
        for temperature in ([], warm):
            words = ["--drafter", "model", "--tree", tree, "--num-draft-nodes", "12", *temperature]
            label = f"generate tree {tree} {'sampled' if temperature else 'greedy'}"
            yield label, case(*words, "--dtype", "float32")
    lossy = ["--num-speculative-tokens", "4", "--num-qualified-tokens", "8", *warm]
    for mode in ("distribution", "assisted", "fuzzy"):
        for dtype in ("int8", "float32"):
            yield f"generate {mode} {dtype}", case("--mode", mode, "--dtype", dtype, *lossy)
    for name in ("js", "tv", "kl_dv", "kl_vd", "js_fsd", "logp_abs", "topk_js"):
        yield f"generate fuzzy {name}", case("--mode", "fuzzy", "--divergence", name, *lossy)
    limits = ["--max-changed", "2%", "--threshold-target", "80%", "--threshold-qualifier", "90%"]
    yield "generate fuzzy limited", case("--mode", "fuzzy", *limits, *lossy)
    for tree in ("rsd-c", "rsd-s"):
        yield (
            f"generate distribution {tree}",
            case("--mode", "distribution", "--drafter", "model", "--tree", tree, *warm),
        )
    texts = {
        "penalties": ["--repetition-penalty", "1.2", "--presence-penalty", "0.2", *warm],
        "warps": ["--temperature", "1", "--top-k", "20", "--min-p", "0.02", "--typical-p", "0.95"],
        "stop": ["--stop", "the", "--min-new-tokens", "8"],
        "logprobs": ["--logprobs", "3"],
        "samples": ["--n", "3", *warm],
        "chat": ["--chat", *warm],
        "bfloat16": ["--dtype", "bfloat16", "--drafter", "none"],
        "window": ["--context-length", "30"],
        "two tiers": ["--qualifier", "none"],
    }
    four = ["--num-speculative-tokens", "4"]
    for name, words in texts.items():
        yield f"generate {name}", case(*(words if "bfloat16" in words else [*four, *words]))
    yield "generate text", lambda: call(*common[:-1], *four, "--color", "always")
    yield "generate stdin", lambda: call("generate", "-", *common[2:-1], *four, stdin="It was\n")
    talk, short = "Hello!\nWhat is a river?\n/quit\n", ["--seed", "1", "--max-new-tokens", "20"]
    yield "chat", lambda: call("chat", *short, *four, stdin=talk)


def wrong() -> Iterator[tuple[str, Case]]:
    """Wrong inputs: the exit code and the line that explains them."""
    calls = {
        "no prompt": ["generate"],
        "empty": ["generate", ""],
        "drafter": ["generate", "x", "--drafter", "lokup"],
        "tree": ["generate", "x", "--drafter", "model", "--tree", "eagel2"],
        "tree of copies": ["generate", "x", "--drafter", "lookup", "--tree", "eagle2"],
        "mode": ["generate", "x", "--mode", "exakt"],
        "nodes": ["generate", "x", "--drafter", "lookup", "--num-draft-nodes", "4"],
        "length": ["generate", "x", "--num-speculative-tokens", "0"],
        "share": ["generate", "x", "--mode", "fuzzy", "--max-changed", "nine"],
        "temperature": ["generate", "x", "--temperature", "-1"],
        "top-p": ["generate", "x", "--top-p", "2"],
        "rest": ["generate", "x", "--drafter", "rest"],
        "datastore": ["generate", "x", "--drafter", "rest", "--datastore", "/nowhere"],
        "target": ["generate", "x", "--target", "/nowhere"],
        "dtype": ["generate", "x", "--dtype", "int3"],
        "device": ["generate", "x", "--device", "tpu"],
        "context": ["generate", "x", "--keep-ratio", "0.5"],
        "context file": ["generate", "x", "--context", "/nowhere.txt"],
        "ratio": ["summarize", str(WORK / "story.txt"), "--keep-ratio", "1.5"],
        "selector": ["summarize", str(WORK / "story.txt"), "--selector", "bm52"],
        "image": ["caption", "/nowhere.png"],
        "no vision": ["caption", str(WORK / "a.png"), "--target", "tiny"],
        "bench": ["bench", "speed", "--strategies", "drafft"],
        "bench key": ["bench", "speed", "--strategies", "draft:kk=4"],
        "bench workload": ["bench", "speed", "--workloads", "storys"],
        "rival": ["bench", "speed", "--rival", "lama"],
        "calibrate": ["calibrate", "--divergence", "jsd"],
        "prompts": ["calibrate", "--prompts", "/nowhere.jsonl"],
        "train": ["train", "family", "/nowhere.toml"],
        "vizer": ["train", "vizer", "tiny-vision", "/nowhere", "--out", str(WORK / "none")],
        "store": ["datastore", "info", "/nowhere"],
    }
    for name, words in calls.items():
        yield f"wrong {name}", lambda words=words: call(*words, exact=True)
