"""atheris on reads by byte ranges from a real server: `python -m tests.fuzz.fuzz_ranges [libFuzzer flags]`.

The fuzzer's bytes tamper with one stored segment and say which observations are read; what must hold of them
is `StoredSegments.check`.
"""

import atexit
import sys

import atheris

import replay.items.priority_index

# Compiled modules, which atheris cannot instrument: so they come first.
import replay.segments.blocks
import replay.segments.columns
import replay.segments.returns  # noqa: F401

with atheris.instrument_imports(include=["replay", "tests.helpers.replay.block_fuzzing"]):
    from tests.helpers.replay.block_fuzzing import StoredSegments


if __name__ == "__main__":
    stored = StoredSegments()
    atexit.register(stored.close)
    atheris.Setup(sys.argv, stored.check)
    atheris.Fuzz()
