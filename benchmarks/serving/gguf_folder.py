"""Writes a GGUF file as a folder of `transformers` in float32, for servers that read folders only.

    python -m benchmarks.serving.gguf_folder FILE FOLDER

The weights are those that the quantised ones stand for, so that all servers compute with the same
numbers. `transformers` itself refuses to save a model that it has read from a GGUF file.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    place = {"gguf_file": options.file.name}
    read = AutoModelForCausalLM.from_pretrained(options.file.parent, dtype=torch.float32, **place)
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    plain = type(read)(type(read.config).from_dict(settings))
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    plain.save_pretrained(options.folder)
    AutoTokenizer.from_pretrained(options.file.parent, **place).save_pretrained(options.folder)


if __name__ == "__main__":
    main()
