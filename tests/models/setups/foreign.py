"""A checkpoint whose tokenizer is not that of the others."""

import json
from pathlib import Path

from tokenizers import Tokenizer as Core
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.models.setups.make_checkpoints import byte_symbols, make_checkpoint


def foreign_checkpoint(folder: Path) -> Path:
    """Write a random checkpoint that ends at token 258; its vocabulary: the bytes in another
    order, and two words."""
    make_checkpoint(folder, tokenizer=True, std=0.3)
    symbols = byte_symbols()[::-1]
    vocab = {symbol: place for place, symbol in enumerate([*symbols, "ab", "th", "<end>"])}
    core = Core(models.BPE(vocab=vocab, merges=[("a", "b"), ("t", "h")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<end>"])
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 258}))
    return folder
