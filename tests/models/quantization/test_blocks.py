"""The block formats of GGUF files: each decoder gives the numbers of the `gguf` package."""

import numpy as np
import pytest

from outrider.models.quantization.blocks import BLOCK_FORMATS, BlockFormat

gguf = pytest.importorskip("gguf")


def some_blocks(known: BlockFormat, count: int = 40) -> np.ndarray:
    """Return random blocks; numbers in 16 bits are finite."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (count, known.nbytes), dtype=np.uint8)
    for at in range(known.nbytes - 1):
        high = blocks[:, at + 1]
        high[(high & 0x7C) == 0x7C] &= 0xBF  # neither NaN nor infinity in float16 and bfloat16
    return blocks


@pytest.mark.parametrize("number", BLOCK_FORMATS, ids=lambda n: BLOCK_FORMATS[n].name)
def test_blocks_are_decoded_as_by_the_gguf_package(number: int) -> None:
    known = BLOCK_FORMATS[number]
    kind = gguf.GGMLQuantizationType(number)
    assert kind.name == known.name
    assert gguf.GGML_QUANT_SIZES[kind] == (known.weights, known.nbytes)
    blocks = some_blocks(known)
    theirs = gguf.quants.dequantize(blocks.reshape(4, -1), kind)
    ours = known.decode_rows(blocks.reshape(4, -1))
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, np.asarray(theirs, dtype=np.float32))


@pytest.mark.parametrize("number", BLOCK_FORMATS, ids=lambda n: BLOCK_FORMATS[n].name)
def test_damaged_blocks_give_no_warning(number: int) -> None:
    """NaN and infinite factors are refused by name later; warnings are errors in tests."""
    known = BLOCK_FORMATS[number]
    for byte in (0x7C, 0xFC, 0x7E, 0xFF):
        for other in (0, 0xFF):
            blocks = np.full((4, known.nbytes), other, dtype=np.uint8)
            blocks[:, 1::2] = byte
            assert known.decode_rows(blocks).shape == (4, known.weights)
