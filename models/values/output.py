"""The output layer: map features to values, or to their distributions."""

import torch
from torch import Tensor, nn

from models.config import Initializer
from models.initializers import initialize_
from models.values.linear import build_linear
from models.values.noisy import LayerNoise


class OutputLayer(nn.Module):
    """Maps features (B, F) to (B, A, Z) linearly; Z (`num_atoms`) is the number of atoms or quantiles, or 1.

    With dueling streams (Wang et al., 2016) the first Z outputs are the state's value and the rest
    the advantages. The streams have no hidden layers of their own and share the noise of their
    inputs, as in the reference code.
    """

    def __init__(
        self,
        in_features: int,
        num_actions: int,
        num_atoms: int,
        *,
        dueling: bool,
        sigma: float | None,
        generator: torch.Generator,
        initializer: Initializer,
    ) -> None:
        super().__init__()
        self.dueling = dueling
        self.num_atoms = num_atoms
        out_features = (num_actions + dueling) * num_atoms
        self.noise_sizes = None if sigma is None else (in_features, out_features)
        self.linear = build_linear(in_features, out_features, sigma, generator, initializer)
        if dueling and sigma is None:
            # Two kernels of different fan-out, as two separate layers would have them.
            for part in torch.split(self.linear.weight, [num_atoms, num_actions * num_atoms]):
                initialize_(part, in_features, len(part), generator, initializer)

    def forward(self, features: Tensor, noise: LayerNoise | None) -> Tensor:
        """Map (B, F) to float32 (B, A, Z).

        With a single number per action, the layer computes in float32: bfloat16 has steps of 0.008
        between 1 and 2, and actions whose values differ by less would be equal. Means over atoms or
        quantiles are precise enough.
        """
        inputs = features.float() if self.num_atoms == 1 else features
        outputs: Tensor = self.linear(inputs, noise).float().view(len(features), -1, self.num_atoms)
        if not self.dueling:
            return outputs
        value, advantage = outputs[:, :1], outputs[:, 1:]  # (B, 1, Z), (B, A, Z)
        return value + advantage - advantage.mean(dim=1, keepdim=True)
