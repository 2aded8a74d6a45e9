"""atheris on the loops that decompress blocks: `python -m tests.fuzz.fuzz_blocks [libFuzzer flags]`.

They are compiled, so that atheris cannot see into them: it is led by the plain Python that they are compared
with, and by what the fuzzer's bytes are made into.
"""

import sys

import atheris

import replay.items.priority_index

# Compiled modules, which atheris cannot instrument: so they come first.
import replay.segments.blocks
import replay.segments.columns
import replay.segments.returns  # noqa: F401

with atheris.instrument_imports(include=["tests.helpers.replay.block_fuzzing"]):
    from tests.helpers.replay.block_fuzzing import check_scattered


if __name__ == "__main__":
    atheris.Setup(sys.argv, check_scattered)
    atheris.Fuzz()
