"""Weights that training holds at zero: a mask drawn at the start, or magnitude pruning on a schedule."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from learner.update.flat_parameters import named_views
from learner.update.optimizer import FlatAdam
from learner.update.precision import ComputeCopy
from models.config import NetworkConfig
from models.q_network import QNetwork
from models.sparsity import kernels, layer_sparsities, lowest

PREFIX = "zeros/"


class SparseWeights:
    """The online network's weights that are zero (`NetworkConfig.sparsity`).

    Zeros are kept by Adam itself: a weight that is zero, whose moments are zero and whose gradient is
    set to zero (`hold`), does not move. So the target network, the copy that computes, checkpoints and
    actors have the zeros with the weights, and only this object knows the mask (decision 0034).

    The noise of a weight goes with it: its sigma is zero too.
    """

    def __init__(self, network: QNetwork, compute: ComputeCopy, optimizer: FlatAdam, seed: int) -> None:
        """`network` is float32; `compute` and `optimizer` are of its weights."""
        config: NetworkConfig = network.config
        self._compute, self._optimizer = compute, optimizer
        self._is_sparse, self._is_pruned = config.sparsity > 0.0, config.sparsify == "pruning"
        if not self._is_sparse:
            return
        self._kernels = kernels(network)
        layers = [kernel.shape for kernel in self._kernels for _ in range(kernel.num_layers)]
        shares = iter(layer_sparsities(layers, config.sparsity, config.sparsity_distribution))
        self._shares = [[next(shares) for _ in range(kernel.num_layers)] for kernel in self._kernels]
        self._zeros = torch.zeros_like(compute.source, dtype=torch.bool, requires_grad=False)
        self._views = named_views(network, self._zeros)
        if not self._is_pruned:
            own_seed = int(np.random.SeedSequence([seed, 2]).generate_state(1)[0])
            generator = torch.Generator().manual_seed(own_seed)
            drawn = [torch.rand(kernel.parameter.shape, generator=generator) for kernel in self._kernels]
            self._set([scores.to(compute.source.device) for scores in drawn], 1.0)

    def hold(self, gradient: Tensor) -> None:
        """Set a flat gradient, of any dtype, to zero where the weights are zero."""
        if self._is_sparse:
            gradient.masked_fill_(self._zeros, 0.0)

    @torch.no_grad()
    def prune(self, share: float) -> None:
        """Bring every layer to `share`, 0 to 1, of its final sparsity: its smallest weights become zero.

        What is zero stays zero. Without `--network.sparsify pruning` this does nothing.
        """
        if self._is_sparse and self._is_pruned and share > 0.0:
            self._set([kernel.parameter.detach().abs() for kernel in self._kernels], share)

    def state(self) -> dict[str, Tensor]:
        """Copy the mask of every kernel, `zeros/<kernel>` bool; empty where no weight is held."""
        if not self._is_sparse:
            return {}
        return {f"{PREFIX}{k.name}": self._views[k.name].cpu().contiguous().clone() for k in self._kernels}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what `state` returned; the weights come with their zeros. KeyError for a missing tensor."""
        if self._is_sparse:
            for kernel in self._kernels:
                self._mark(kernel.name, tensors[f"{PREFIX}{kernel.name}"])

    def _set(self, scores: list[Tensor], share: float) -> None:
        """Make zero the weights of the lowest score, and all that were."""
        for kernel, score, shares in zip(self._kernels, scores, self._shares, strict=True):
            before = kernel.rows(self._views[kernel.name])
            size = before.shape[1]
            # A run that was made longer has a smaller share than before: nothing comes back.
            most = zip(shares, before.sum(dim=1).tolist(), strict=True)
            count = [max(round(final * share * size), zeros) for final, zeros in most]
            mask = lowest(kernel.rows(score).masked_fill(before, -1.0), count)
            self._mark(kernel.name, mask.view(kernel.parameter.shape))
        self._compute.source.detach().masked_fill_(self._zeros, 0.0)
        self._optimizer.forget(self._zeros)
        self._compute.refresh()

    def _mark(self, name: str, mask: Tensor) -> None:
        for marked in (name, f"{name}_sigma"):
            if marked in self._views:
                self._views[marked].copy_(mask)
