"""The generators from which an update's noise is drawn."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

NAMES = ("noise_generator", "judge_noise_generator")
"""Names of their states in a checkpoint: the online network's, and the target network's."""


class NoiseGenerators:
    """Generators on one device: one for each member of a team, and one for the target network's noise."""

    def __init__(self, seed: int, device: torch.device, members: int) -> None:
        self._seed = seed
        online, target = _seeds_of(seed)
        # All members draw the same numbers: waiting for the one that would draw for all takes longer.
        self.members = [torch.Generator(device).manual_seed(online) for _ in range(members)]
        self.target = torch.Generator(device).manual_seed(target)

    def state(self) -> dict[str, Tensor]:
        """Return the states of both kinds (uint8), by their names in a checkpoint."""
        return dict(zip(NAMES, (self.members[0].get_state(), self.target.get_state()), strict=True))

    def restore(self, tensors: Mapping[str, Tensor], update: int) -> bool:
        """Take the states back; return False if they are of another kind of device.

        The generators then begin anew, from the run's seed and the number of the update.
        """
        states = [tensors[name].to(torch.uint8).cpu() for name in NAMES]
        fit = all(len(state) == len(self.target.get_state()) for state in states)
        groups = (self.members, [self.target])
        for generators, state, seed in zip(groups, states, _seeds_of(self._seed, update), strict=True):
            for generator in generators:
                if fit:
                    generator.set_state(state)
                else:
                    generator.manual_seed(seed)
        return fit


def _seeds_of(seed: int, *more: int) -> list[int]:
    """Return the seeds of the online and of the target network's noise."""
    drawn = np.random.SeedSequence([seed, 1, *more]).generate_state(2, np.uint64) >> np.uint64(1)
    return [int(number) for number in drawn]
