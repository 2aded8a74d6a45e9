"""Limits of a configuration's fields: what is within them, and their words."""

import pytest
from annotated_types import MultipleOf

from apexpert.limits import SHARE, Ge, Gt, Interval, InWords, Le, Lt, Predicate, allowed, fits


@pytest.mark.parametrize(
    ("marker", "within", "beyond", "words"),
    [
        (Gt(0), [0.1], [0], "greater than 0"),
        (Ge(0), [0], [-1], "0 or more"),
        (Lt(1), [0.9], [1], "less than 1"),
        (Le(1), [1], [1.1], "1 or less"),
        (SHARE, [0, 1], [-0.1, 1.1], "from 0 to 1"),
        (Interval(ge=1, le=255), [1, 255], [0, 256], "1 to 255"),
        (Interval(ge=0, lt=1), [0, 0.9], [-0.1, 1], "0 or more and less than 1"),
        (Interval(gt=0, lt=1), [0.1], [0, 1], "greater than 0 and less than 1"),
        (Interval(gt=0, le=1), [1], [0, 1.1], "greater than 0 and 1 or less"),
        (Interval(ge=1), [1, 9], [0], "1 or more"),
        (Interval(lt=1), [-9], [1], "less than 1"),
    ],
)
def test_what_is_within_a_limit_and_its_words(marker, within, beyond, words) -> None:
    assert all(fits(value, [marker]) for value in within)
    assert not any(fits(value, [marker]) for value in beyond)
    assert allowed([marker]) == words


def test_several_markers_hold_together() -> None:
    markers = [Gt(0), Le(5), "a note"]
    assert [fits(value, markers) for value in (0, 1, 5, 6)] == [False, True, True, False]
    assert allowed(markers) == "greater than 0 and 5 or less"


def test_own_words_take_the_place_of_the_limits() -> None:
    markers = [Predicate(lambda value: value % 2 == 0), InWords("an even number")]
    assert [fits(value, markers) for value in (1, 2)] == [False, True]
    assert allowed(markers) == "an even number"
    assert allowed([]) == ""


def test_a_kind_of_limit_that_is_not_checked_is_refused() -> None:
    with pytest.raises(ValueError, match="not a kind of limit that is checked"):
        fits(3, [MultipleOf(2)])
