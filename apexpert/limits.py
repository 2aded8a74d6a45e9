"""Limits of a configuration field's value, written beside the field with annotated-types.

n_step: Annotated[int, Interval(ge=1, le=255)] = 3
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from annotated_types import BaseMetadata, Ge, GroupedMetadata, Gt, Interval, Le, Lt, Predicate

__all__ = ["SHARE", "Ge", "Gt", "InWords", "Interval", "Le", "Lt", "Predicate", "allowed", "fits"]

SHARE = Interval(ge=0, le=1)


@dataclass(frozen=True)
class InWords:
    """A limit's words, where those of its marker would not say enough."""

    text: str


def fits(value: Any, markers: Sequence[Any]) -> bool:
    """Whether a value is within all limits among a field's markers."""
    return all(_holds(value, marker) for marker in markers)


def allowed(markers: Sequence[Any]) -> str:
    """Say in words what the markers allow: `1 to 255`, `greater than 0`; empty without a limit."""
    words = [marker.text for marker in markers if isinstance(marker, InWords)]
    limits = [marker for marker in markers if isinstance(marker, BaseMetadata | GroupedMetadata)]
    return " and ".join(words or map(_words, limits))


def _holds(value: Any, marker: Any) -> bool:
    match marker:
        case Gt(gt=bound):
            return bool(value > bound)
        case Ge(ge=bound):
            return bool(value >= bound)
        case Lt(lt=bound):
            return bool(value < bound)
        case Le(le=bound):
            return bool(value <= bound)
        case Predicate(func=predicate):
            return bool(predicate(value))
        case Interval():
            return fits(value, list(marker))
        case BaseMetadata() | GroupedMetadata():
            raise ValueError(f"{marker}: not a kind of limit that is checked")
    # Other markers, such as InWords, set no limit.
    return True


def _words(marker: Any) -> str:
    match marker:
        case Gt(gt=bound):
            return f"greater than {bound}"
        case Ge(ge=bound):
            return f"{bound} or more"
        case Lt(lt=bound):
            return f"less than {bound}"
        case Le(le=bound):
            return f"{bound} or less"
        case Interval(ge=low, le=high) if marker is SHARE:
            return f"from {low} to {high}"
        case Interval(ge=low, le=high) if low is not None and high is not None:
            return f"{low} to {high}"
        case Interval():
            return " and ".join(map(_words, marker))
    raise ValueError(f"{marker}: give it words by InWords")
