"""Ranks of matrices as the literature on plasticity defines them: pure functions of singular values."""

import torch
from torch import Tensor


def singular_values(matrices: Tensor) -> Tensor:
    """Return the singular values (..., min(M, N)) float64, largest first, of matrices (..., M, N).

    They are roots of the eigenvalues of the smaller Gram matrix in float64: several times faster than a
    float32 decomposition of many small matrices, and exact to about 1e-8 of the largest. Raises ValueError
    for fewer than two dimensions.
    """
    if matrices.ndim < 2:
        raise ValueError(f"matrices have shape {tuple(matrices.shape)}, not (..., M, N)")
    wide = matrices.double()
    # Both Gram matrices have the same eigenvalues, and the larger one zeros besides.
    if wide.shape[-2] > wide.shape[-1]:
        wide = wide.transpose(-1, -2)
    return singular_values_of_gram(wide @ wide.transpose(-1, -2))


def singular_values_of_gram(gram: Tensor) -> Tensor:
    """Return the singular values (..., M), largest first, of matrices with the float64 `gram` (..., M, M)."""
    squares: Tensor = torch.linalg.eigvalsh(gram)
    # Rounding can make an eigenvalue of a Gram matrix slightly negative.
    return squares.clamp(min=0.0).sqrt().flip(-1)


def count_above(singular_values: Tensor, threshold: float) -> int:
    """Count the singular values, of any shape, above `threshold` times the largest of them all.

    The `srank_t` of the reference code of arXiv 2402.08609. All zeros, or a NaN among them, count as none.
    """
    return int((singular_values / singular_values.max() > threshold).sum())


def srank(singular_values: Tensor, delta: float = 0.01) -> int:
    """Return the effective rank (Kumar et al., 2021, arXiv 2010.14498): how many of the singular values (N,),
    largest first, make up the share 1 - `delta` of their sum. Zero for a zero matrix.
    """
    if singular_values.ndim != 1:
        raise ValueError(f"singular_values have shape {tuple(singular_values.shape)}, not (N,)")
    total = singular_values.sum()
    missing = total - singular_values.cumsum(0)
    # The smallest k that leaves at most delta is one more than the number of k that leave more.
    return int((missing > delta * total).sum()) + int(total > 0)
