"""The configuration of the network; every field is one command-line flag."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from apexpert.limits import Ge, Gt, Interval, InWords

ENCODERS = ("impala", "nature", "minatar")
MOE_HEADS = ("soft_moe", "top_k_moe", "expert_choice")
HEADS = (*MOE_HEADS, "dense", "pooled")

Tokens = Literal["per_conv", "per_feature_map", "per_sample", "per_patch"]
Combine = Literal["flatten", "mean", "sum"]
Values = Literal["scalar", "c51", "quantile"]
Initializer = Literal["xavier", "fan_in"]
Phi = Literal["trained", "fixed", "redrawn"]
Distribution = Literal["erk", "uniform"]


ONE_CHANNEL = "1/16 or more, so that every convolution keeps a channel"


@dataclass(frozen=True)
class NetworkConfig:
    """A Q-network: encoder, tokens, head (a mixture of experts or a control) and output layer.

    Sources: Obando-Ceron et al., 2024 (arXiv 2402.08609) for the arms; Sokar et al., 2024 (arXiv
    2410.01930) and Sokar and Castro, 2025 (arXiv 2505.17749) for the controls. docs/arms.md lists
    them with their flags.
    """

    encoder: str = "impala"
    """Convolutions: impala (Espeholt et al., 2018), nature (Mnih et al., 2015), minatar (one of 16 filters;
    Young and Tian, 2019) or module:callable."""
    padding: Literal["same", "valid"] = "same"
    """Padding of the convolutions; 84x84 frames give 11x11 positions with `same`, 7x7 with `valid`."""
    encoder_width_scale: Annotated[float, Ge(1 / 16), InWords(ONE_CHANNEL)] = 1.0
    """Factor on the channels of every convolution of the encoder."""
    centered_kernels: bool = False
    """Subtract its mean from every kernel of the encoder, so that one constant value, a game's
    background, gives the bias alone and kills no ReLU (Huang et al., ICCV 2017)."""
    tokens: Tokens = "per_conv"
    """Kind of token: a position of the feature map (per_conv), one of its channels
    (per_feature_map), all of it (per_sample) or a square of positions (per_patch)."""
    patch_size: Annotated[int, Gt(0)] = 3
    """Positions on a side of a patch; positions left over at the right and at the bottom are cut off."""
    patch_embedding: Literal["average", "learned"] = "learned"
    """How a patch becomes a token: the average of its positions, or a learned linear map (a convolution)."""
    patch_width: Annotated[int, Ge(0)] = 0
    """Width of learned patch tokens; 0 takes the encoder's number of channels. The paper's code
    uses 32 for its Impala DQN and 64 for its other networks."""
    shuffle: Literal["none", "features", "tokens"] = "none"
    """Break the tokens' places. features: one permutation of all values of the feature map before it is
    cut into tokens, for ever the same; tokens: each row's tokens in another order at every pass."""
    head: str = "soft_moe"
    """Between tokens and output: soft_moe, top_k_moe, expert_choice (experts choose their tokens; Zhou
    et al., 2022, arXiv 2202.09368), dense (one hidden layer, the baseline), pooled (only the combined
    tokens) or module:callable."""
    combine: Combine = "flatten"
    """How tokens become one vector: the tokens that leave the experts, or enter a dense or pooled head."""
    num_experts: Annotated[int, Gt(0)] = 4
    """Experts of a mixture."""
    expert_hidden_units: Annotated[int, Gt(0)] = 512
    """Hidden units of each expert."""
    expert_width_scale: Annotated[float, Gt(0)] = 1.0
    """Factor on the hidden units of each expert; with one expert this is the scaled single expert."""
    slim_experts: bool = False
    """Divide the hidden units of each expert by the number of experts: as many parameters as one expert."""
    capacity_factor: Annotated[float, Gt(0)] = 1.0
    """Slots of an expert: ceil(capacity_factor * tokens / experts)."""
    normalize: bool = False
    """Soft MoE: tokens and phi of unit length and a learned scale (Puigcerver et al., 2023, section 2.3)."""
    normalize_scale: Annotated[float, Gt(0)] = 1.0
    """Soft MoE, normalised: initial value of the learned scale. With 1 all slots are about the mean token."""
    phi: Phi = "trained"
    """Soft MoE: phi is trained, stays as it was drawn (fixed), or is drawn by every pass for each row
    from a unit normal (redrawn), as by `use_random_phi` in the code of arXiv 2402.08609."""
    token_norm: bool = False
    """LayerNorm on the tokens before they enter a mixture, as in the blocks of Puigcerver et al., 2023."""
    residual: bool = False
    """Add the input of a mixture's part of the head, before any norm, to its output (the same blocks)."""
    selected_experts: Annotated[int, Gt(0)] = 1
    """Top-k MoE: number of experts that each token chooses."""
    router_noise: Annotated[float, Ge(0)] = 0.0
    """Top-k MoE: in training, scale of the normal noise on the router's logits, divided by the
    number of experts; 0 turns it off, the usual scale is 1 (Riquelme et al., 2021)."""
    importance_loss_weight: Annotated[float, Ge(0)] = 0.0
    """Top-k MoE: weight of the loss that evens out the experts' probabilities."""
    load_loss_weight: Annotated[float, Ge(0)] = 0.0
    """Top-k MoE: weight of the loss that evens out the experts' probabilities of being chosen."""
    entropy_loss_weight: Annotated[float, Ge(0)] = 0.0
    """Top-k MoE: weight of the loss that evens out how often each expert is chosen."""
    dense_hidden_units: Annotated[int, Gt(0)] = 512
    """Hidden units of the dense head."""
    scale_dense: bool = False
    """Multiply the dense head's hidden units by the number of experts: the parameter-matched baseline."""
    sparsity: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Share of the weights of all kernels (convolutions, dense layers, experts) that training holds at
    zero, with their noise; biases, norms, phi and the router keep all of theirs."""
    sparsify: Literal["static", "pruning"] = "static"
    """Which weights `sparsity` is about. static: drawn before the first update; pruning: the smallest,
    more and more from --learner.pruning-start to --learner.pruning-end (Zhu and Gupta, 2017,
    arXiv 1710.01878)."""
    sparsity_distribution: Distribution = "erk"
    """How `sparsity` is spread over the layers: erk (Evci et al., 2020: large layers are sparser) or
    uniform. Each expert is a layer."""
    values: Values = "c51"
    """Kind of value that is learned of an action's return: only its mean (scalar), a distribution over fixed
    atoms (c51; Bellemare et al., 2017) or its quantiles (quantile; QR-DQN, Dabney et al., 2018,
    arXiv 1710.10044)."""
    num_atoms: Annotated[int, Ge(2)] = 51
    """c51: atoms of the distribution's support."""
    v_min: float = -10.0
    """c51: smallest atom of the support."""
    v_max: float = 10.0
    """c51: largest atom of the support."""
    num_quantiles: Annotated[int, Gt(0)] = 200
    """quantile: quantiles of an action's return, at the midpoints (i + 0.5) / num_quantiles."""
    dueling: bool = True
    """Dueling value and advantage streams (Wang et al., 2016)."""
    noisy: bool = True
    """Factorised noise (Fortunato et al., 2018) in the output layer and the head's (experts') first layer."""
    noisy_sigma: Annotated[float, Gt(0)] = 0.1
    """Initial scale of the noise, divided by the square root of the layer's inputs."""
    initializer: Initializer = "xavier"
    """Initial kernels of the encoder, a dense head and the output layer where they are not noisy:
    xavier (Glorot and Bengio, 2010), or fan_in, which Dopamine's C51, Rainbow and QR-DQN use."""
    noise_per: Literal["batch", "row"] = "batch"
    """Noise draws in an update. `row`: one per row where the network learns, and one that the
    choice of the next action and the target network share, as in the paper's code. `batch`: one for
    each pass."""

    @property
    def outputs_per_action(self) -> int:
        """Z: numbers in the output layer for each action."""
        return {"scalar": 1, "c51": self.num_atoms, "quantile": self.num_quantiles}[self.values]

    @property
    def hidden_of_an_expert(self) -> int:
        """H: hidden units of each expert, scaled and slimmed as configured."""
        units = int(self.expert_hidden_units * self.expert_width_scale)
        return units // self.num_experts if self.slim_experts else units

    @property
    def hidden_of_the_dense_head(self) -> int:
        """Hidden units of the dense head, scaled as configured."""
        return self.dense_hidden_units * (self.num_experts if self.scale_dense else 1)


def with_current_names(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved network's fields (from JSON) under their current names; current fields pass unchanged.

    `distributional`, true or false, was the predecessor of `values`.
    """
    fields = dict(document)
    if isinstance(fields.get("distributional"), bool) and "values" not in fields:
        fields["values"] = "c51" if fields.pop("distributional") else "scalar"
    return fields


def is_imported(name: str) -> bool:
    """Whether an encoder or head is the user's own, given as `module:callable`."""
    return ":" in name
