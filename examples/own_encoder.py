"""Train with an encoder of your own: any callable that makes a torch module (docs/arms.md).

python examples/own_encoder.py [ENV_STEPS], or in this folder:
apexpert train --game Pong --network.encoder own_encoder:make
"""

import sys

import torch
from torch import nn

import apexpert


class TwoConvolutions(nn.Module):
    """Images (B, K, 84, 84), 0 to 1, to feature maps (B, 32, 9, 9)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 16, 8, stride=4), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2), nn.ReLU()
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Apply both."""
        return self.layers(images)


def make(config: apexpert.NetworkConfig, in_channels: int) -> nn.Module:
    """Build the encoder for `--network.encoder own_encoder:make`, with a channel for each of K frames."""
    return TwoConvolutions(in_channels)


def main(total_env_steps: int = 20_000) -> None:
    """Train Pong with it."""
    config = apexpert.preset(
        "laptop",
        game="Pong",
        encoder="own_encoder:make",
        encoder_width_scale=1.0,
        total_env_steps=total_env_steps,
    )
    with apexpert.train(config) as run:
        print(run.name, run.wait()["state"])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
