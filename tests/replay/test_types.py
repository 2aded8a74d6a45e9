"""Identities as text: one spelling each."""

import pytest

from replay.types import SegmentIdentity


def test_what_str_returns_is_parsed() -> None:
    for identity in (SegmentIdentity(0, 0, 0), SegmentIdentity(12, 3, 4567)):
        assert SegmentIdentity.parse(str(identity)) == identity


@pytest.mark.parametrize(
    "text", ["", "1.2", "1.2.3.4", "01.2.3", "-1.2.3", "+1.2.3", " 1.2.3", "1_0.2.3", "\u0661.2.3", "a.b.c"]
)
def test_any_other_text_is_refused(text: str) -> None:
    """Two spellings of one identity would be two segments, in a key, a log or an archive."""
    with pytest.raises(ValueError):  # noqa: PT011
        SegmentIdentity.parse(text)
