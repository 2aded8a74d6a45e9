"""Summarise how uneven the draws of a prioritized replay are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0, 0.01, 0.1, 0.5, 0.9, 0.99, 1)


@dataclass(frozen=True)
class MassSummary:
    """How unevenly items are drawn: each in proportion to its mass."""

    items: int
    quantiles: dict[str, float]
    """Mass at 0, 0.01, 0.1, 0.5, 0.9, 0.99 and 1."""
    edges: list[float]
    """(bins + 1,) edges of the histogram, in equal ratios from the smallest mass to the largest."""
    counts: list[int]
    """(bins,) items in each bin."""
    effective_sample_size: float
    """1 / sum(P^2) of the draw probabilities P: Kish's effective sample size (Kish, 1965)."""
    top_share: float
    """Share of all draws that go to the 1 % of items with the largest masses."""


def summarise_masses(masses: NDArray[np.float64], bins: int = 40) -> MassSummary:
    """Summarise masses (N,), all finite and positive; raises ValueError if there are none."""
    if not len(masses):
        raise ValueError("no items")
    ordered = np.sort(masses)
    probability = ordered / ordered.sum()
    low, high = float(ordered[0]), float(ordered[-1])
    # With equal masses, all edges would be equal, too.
    edges = np.geomspace(low, high, bins + 1) if high > low else np.array([low, high])
    edges[0], edges[-1] = low, high  # geomspace rounds; the smallest and largest must stay inside
    counts = np.histogram(ordered, edges)[0] if high > low else np.array([len(ordered)])
    return MassSummary(
        items=len(ordered),
        quantiles={f"{point:g}": float(np.quantile(ordered, point)) for point in QUANTILES},
        edges=edges.tolist(),
        counts=counts.tolist(),
        effective_sample_size=float(1.0 / np.square(probability).sum()),
        top_share=float(probability[-max(1, len(ordered) // 100) :].sum()),
    )
