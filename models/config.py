"""What the network looks like; every field is one command-line flag."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class NetworkConfig:
    """A Q-network: encoder, head (Soft MoE or dense) and output layer.

    Source of the architecture: Obando-Ceron et al., 2024, arXiv 2402.08609.
    """

    encoder: Literal["impala", "nature"] = "impala"
    """Convolutional encoder: `impala` (Espeholt et al., 2018) or `nature` (Mnih et al., 2015)."""
    padding: Literal["same", "valid"] = "same"
    """Padding of the convolutions; 84x84 frames give 11x11 tokens with `same`, 7x7 with `valid`."""
    head: Literal["soft_moe", "dense"] = "soft_moe"
    """What stands between encoder and output: a Soft MoE layer, or one dense hidden layer (the baseline)."""
    num_experts: int = 4
    """Experts of the Soft MoE head."""
    expert_hidden_units: int = 512
    """Hidden units of each expert."""
    dense_hidden_units: int = 512
    """Hidden units of the dense head."""
    distributional: bool = True
    """C51 (Bellemare et al., 2017): a distribution over `num_atoms` atoms an action; else one value."""
    num_atoms: int = 51
    """Atoms of the distribution's support."""
    v_min: float = -10.0
    """Smallest atom of the support."""
    v_max: float = 10.0
    """Largest atom of the support."""
    dueling: bool = True
    """Dueling value and advantage streams (Wang et al., 2016)."""
    noisy: bool = True
    """Factorised noise (Fortunato et al., 2018) in the output layer and the head's (experts') first layer."""
    noisy_sigma: float = 0.1
    """Initial scale of the noise, divided by the square root of the layer's inputs."""
