"""atheris on the segment decoder: `python -m tests.fuzz.fuzz_segment [libFuzzer flags]` (tests/fuzz/run.py).

What must hold of every input is `check_decoding`: a refusal in one line, or a segment that is what it says.
"""

import sys
from typing import Any

import atheris

import replay.items.priority_index

# Compiled modules, which atheris cannot instrument: so they come first.
import replay.segments.blocks
import replay.segments.columns
import replay.segments.returns  # noqa: F401

with atheris.instrument_imports(include=["replay"]):
    from replay.segments.codec import encode
    from replay.segments.header import HEADER_FIELDS
    from tests.helpers.replay.fuzzing import (
        check_decoding,
        packed,
        with_blocks,
        with_columns,
        with_fields,
        with_header_bytes,
    )
    from tests.helpers.replay.segments import make_segment
    from tests.helpers.replay.streams import signature

ENCODED = encode(make_segment(items=9, extra=2), "run", signature())
FIELDS = sorted(HEADER_FIELDS)
LARGEST = 2**64 - 1


def a_value(data: atheris.FuzzedDataProvider, depth: int = 2) -> Any:
    """A msgpack value of any type."""
    match data.ConsumeIntInRange(0, 7 if depth else 5):
        case 0:
            return data.ConsumeIntInRange(-(2**63), LARGEST)
        case 1:
            return data.ConsumeIntInRange(0, 40)
        case 2:
            return data.ConsumeBool()
        case 3:
            return data.ConsumeFloat()
        case 4:
            return data.ConsumeBytes(data.ConsumeIntInRange(0, 8))
        case 5:
            return None
        case 6:
            return [a_value(data, depth - 1) for _ in range(data.ConsumeIntInRange(0, 4))]
        case _:
            return data.ConsumeUnicodeNoSurrogates(8)


def forgery(data: atheris.FuzzedDataProvider) -> bytes:
    """Bytes made of the fuzzer's: as they are, or some part of a real segment under right checksums."""
    match data.ConsumeIntInRange(0, 4):
        case 0:
            return data.ConsumeBytes(data.remaining_bytes())
        case 1:
            return with_header_bytes(ENCODED, data.ConsumeBytes(data.remaining_bytes()))
        case 2:
            names = [data.PickValueInList(FIELDS) for _ in range(data.ConsumeIntInRange(1, 4))]
            fields = {name: a_value(data) for name in names}
            return with_fields(ENCODED, fields) if packed(fields) else b""
        case 3:
            return with_columns(ENCODED, data.ConsumeBytes(data.remaining_bytes()))
        case _:
            return with_blocks(ENCODED, data.ConsumeBytes(data.remaining_bytes()))


def one_input(data: bytes) -> None:
    """Run one input."""
    check_decoding(forgery(atheris.FuzzedDataProvider(data)))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
