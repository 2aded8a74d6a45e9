"""Any blocks and any stored bytes, read by byte ranges: right frames or a refusal."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.replay.block_fuzzing import StoredSegments, check_scattered


@pytest.fixture(scope="module")
def stored() -> Iterator[StoredSegments]:
    stored = StoredSegments()
    yield stored
    stored.close()


@settings(deadline=None, max_examples=400)
@given(st.binary(min_size=100, max_size=300))
def test_blocks_of_any_kind(data: bytes) -> None:
    check_scattered(data)


@settings(deadline=None, max_examples=300)
@given(data=st.binary(min_size=40, max_size=120))
def test_any_bytes_in_a_segments_place(stored: StoredSegments, data: bytes) -> None:
    stored.check(data)
