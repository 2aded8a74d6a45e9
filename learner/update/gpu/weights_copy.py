"""Copies of the parameters on their way from a GPU to the host, for which the learner does not wait."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.update.flat_parameters import views
from models.q_network import QNetwork

IN_FLIGHT = 2
"""Copies that may be on their way at once."""


class WeightsCopier:
    """Copies flat parameters in the order of `models.arrays.flatten`: a gather and a single transfer.

    Works on a CPU as well, where tests compare it with `flatten`.
    """

    def __init__(self, network: QNetwork, flat: Tensor) -> None:
        self._flat, device = flat, flat.device
        places = torch.arange(len(flat))
        # Where each number of the published order is in the flat memory, whose kernels are channels-last.
        order = torch.cat([view.reshape(-1) for view in views(network, places)])
        self._order = order.to(device)
        self._is_cuda = device.type == "cuda"
        self._hosts = [torch.empty(len(order), pin_memory=self._is_cuda) for _ in range(IN_FLIGHT)]
        self._begun = 0

    def begin(self) -> Callable[[], NDArray[np.float32]]:
        """Begin a copy of the parameters as they are now, in the device's order; return what waits for it.

        To be called once, before the next copy but one begins.
        """
        host = self._hosts[self._begun % IN_FLIGHT]
        self._begun += 1
        host.copy_(self._flat.detach().index_select(0, self._order), non_blocking=True)
        event = torch.cuda.Event() if self._is_cuda else None  # type: ignore[no-untyped-call]
        if event is not None:
            event.record()

        def fetch() -> NDArray[np.float32]:
            if event is not None:
                event.synchronize()
            # A copy: the memory serves a later one.
            parameters: NDArray[np.float32] = host.numpy().copy()
            return parameters

        return fetch
