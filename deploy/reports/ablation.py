"""A trained network without one of its parts, to see which parts it plays by."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from actors.policy import Policy
from apexpert.errors import ApexpertError
from deploy.reports.games import play_games
from deploy.run.config import Config
from models.mixtures.heads import Mixture, MoEHead
from models.mixtures.output import MoEOutput
from models.values.noisy import Noise

PARTS = ("mixture", "residual")
STATE_GAMES = 8
"""Games whose states the mixture's mean is taken over."""


class WithoutPart(ApexpertError, ValueError):
    """The network does not have the part to be removed."""


class MeanMixture(nn.Module):
    """A mixture whose output tokens are their mean over states, so that it has no influence on actions."""

    mean: Tensor

    def __init__(self, mixture: Mixture, mean: Tensor) -> None:
        """`mean`: (T, D)."""
        super().__init__()
        self.mixture = mixture
        self.register_buffer("mean", mean)

    def forward(self, tokens: Tensor, noise: Noise | None = None) -> MoEOutput:
        """Replace the output for tokens (B, T, D) by the mean; all else is the mixture's own."""
        # The mixture still runs, because the head passes on more of its output than the tokens.
        found: MoEOutput = self.mixture(tokens, noise)
        return found._replace(tokens=self.mean.to(tokens.dtype).expand_as(found.tokens))


def ablate(
    policy: Policy,
    part: str,
    config: Config,
    seed: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Remove `part` from the network that `policy` acts by.

    `mixture`: its output becomes the mean over the states of STATE_GAMES games that the whole network plays
    from `seed`; `residual`: nothing bypasses the mixture any more. Raises WithoutPart. When told to stop, the
    mean is taken over the states seen so far.
    """
    head = policy.network.head
    if not isinstance(head, MoEHead):
        raise WithoutPart(f"its {config.network.head} head is no mixture of experts")
    if part == "mixture":
        mean = mean_tokens(policy, head.moe, config, seed, should_stop)
        head.moe = MeanMixture(head.moe, mean)  # type: ignore[assignment]
    elif not head.residual:
        raise WithoutPart("nothing goes past its mixture")
    else:
        head.residual = False


def mean_tokens(
    policy: Policy, mixture: nn.Module, config: Config, seed: int, should_stop: Callable[[], bool]
) -> Tensor:
    """Return the (T, D) float32 mean of `mixture`'s output over the states of STATE_GAMES games."""
    # float64, because a long sum of bfloat16 outputs would round most of them away.
    total, states = torch.zeros((), dtype=torch.float64), 0

    def note(_module: nn.Module, _inputs: object, output: MoEOutput) -> None:
        nonlocal total, states
        total, states = total + output.tokens.double().sum(dim=0), states + len(output.tokens)

    hook = mixture.register_forward_hook(note)
    try:
        play_games(config, policy, episodes=STATE_GAMES, seed=seed, should_stop=should_stop)
    finally:
        # `MeanMixture` runs the same module, so the scored games would be summed as well.
        hook.remove()
    return (total / max(states, 1)).float()
