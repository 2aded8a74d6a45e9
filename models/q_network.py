"""The Q-network: encoder, tokens, head and output layer, built from a `NetworkConfig`."""

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from models.config import NetworkConfig, is_imported
from models.encoders.build import build_encoder
from models.encoders.impala import ImpalaEncoder
from models.encoders.imported import ImportedEncoder
from models.encoders.plain import PlainEncoder
from models.mixtures.head_output import HeadOutput
from models.mixtures.heads import build_head
from models.mixtures.output import MoEOutput
from models.mixtures.tokens import Tokenizer
from models.values.noisy import LayerNoise, Noise, draw_factors
from models.values.output import OutputLayer


class NetworkOutput(NamedTuple):
    """Outputs for B observations: A actions, Z atoms or quantiles; all of the output layer is float32."""

    q_values: Tensor
    """(B, A)"""
    logits: Tensor | None
    """(B, A, Z) over the atoms of the support, or None if the values are not C51's."""
    hidden: Tensor
    """Hidden activations of the head: (B, E, S, H) of experts, (B, H) of a dense layer, else the
    input of the output layer (B, F)."""
    moe: MoEOutput | None
    """None if the head is not a mixture of experts."""
    quantiles: Tensor | None = None
    """(B, A, Z), the i-th at probability (i + 0.5) / Z, or None if the values are not quantiles."""

    @property
    def outputs(self) -> Tensor:
        """The output of the output layer: logits or quantiles (B, A, Z), else the values (B, A)."""
        distribution = self.quantiles if self.logits is None else self.logits
        return self.q_values if distribution is None else distribution


class QNetwork(nn.Module):
    """Values of all actions for stacked frames; see `NetworkConfig` for its parts."""

    support: Tensor

    def __init__(
        self,
        config: NetworkConfig,
        num_actions: int,
        *,
        observation_shape: tuple[int, int, int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.config = config
        self.num_actions = num_actions
        self.observation_shape = observation_shape
        sigma = config.noisy_sigma if config.noisy else None
        self.encoder = _build_encoder(config, observation_shape, generator)
        positions = self.encoder.positions(*observation_shape[1:])
        if min(positions) < 1:
            raise ValueError(
                f"observations are too small for the {config.encoder} encoder: no position is left"
            )
        self.tokenizer = Tokenizer(config, self.encoder.channels, positions, generator=generator)
        size = (self.tokenizer.num_tokens, self.tokenizer.width)
        self.head = build_head(config, *size, sigma=sigma, generator=generator)
        self.output = OutputLayer(
            self.head.out_features,
            num_actions,
            config.outputs_per_action,
            dueling=config.dueling,
            sigma=sigma,
            generator=generator,
            initializer=config.initializer,
        )
        support = torch.linspace(config.v_min, config.v_max, config.num_atoms)
        # Not persistent: the support follows from the configuration, and weights are parameters.
        self.register_buffer("support", support, persistent=False)

    def forward(self, observation: Tensor, noise: Noise | None = None) -> NetworkOutput:
        """Return values for uint8 observations (B, K, H, W), scaled to [0, 1]; `noise` None turns noise off.

        Layers compute in the dtype of the parameters (or of an enclosing autocast). An observation
        that `to_image` has already converted to an image is used as it is.
        """
        image = observation if observation.is_floating_point() else self.to_image(observation)
        tokens = self.tokenizer(self.encoder(image, scale=1.0 / 255.0))  # (B, T, D)
        if noise is not None and noise.order is not None:
            tokens = torch.take_along_dim(tokens, noise.order.unsqueeze(2), dim=1)
        head: HeadOutput = self.head(tokens, noise)
        outputs = self.output(head.features, None if noise is None else noise.output)  # (B, A, Z)
        if self.config.values == "scalar":
            return NetworkOutput(outputs.squeeze(2), None, head.hidden, head.moe)
        if self.config.values == "quantile":
            return NetworkOutput(outputs.mean(dim=2), None, head.hidden, head.moe, outputs)
        # Not a matmul, as autocast would round the support to bfloat16.
        q_values = (outputs.softmax(dim=2) * self.support).sum(dim=2)
        return NetworkOutput(q_values, outputs, head.hidden, head.moe)

    def to_image(self, observation: Tensor) -> Tensor:
        """Convert a uint8 observation to a channels-last image.

        The image is (B, K, H, W), 0 to 255 in the network's dtype.
        """
        weight = self.output.linear.weight
        device = weight.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        # On a CPU, widening one plane at a time into its place takes 0.56 of the time of widening the
        # whole stack and then moving it, and 0.37 of one `to` (float32, 32 stacks of 4 frames, cold).
        batch, planes, height, width = observation.shape
        image = observation.new_empty((batch, height, width, planes), dtype=dtype)
        for plane in range(planes):
            image[..., plane] = observation[:, plane]
        # (B, H, W, K) in memory, so that the view (B, K, H, W) is channels-last.
        return image.permute(0, 3, 1, 2)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        support = self.support
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.support = support.to(self.support.device)  # Stays float32 in a bfloat16 network.
        return self

    def sample_noise(
        self,
        generator: torch.Generator,
        batch_size: int | None = None,
        *,
        routed_rows: int = 0,
        layers: bool = True,
    ) -> Noise | None:
        """Draw fresh noise for the noisy layers and the router; None if there is nothing to draw.

        `batch_size` None: one draw of the layers shared by all rows (training); B: an independent
        draw for each row (acting, one for each environment slot). `routed_rows`: number of rows
        whose routing is noisy, each with a separate draw (training); 0 routes without noise. A phi
        or an order of tokens that every pass draws has a separate draw for each of these rows,
        also with `layers` False, which leaves out the noisy layers (evaluation). The generator
        must be on the network's device.
        """
        noisy = (self.head.noise_sizes, self.output.noise_sizes) if layers else (None, None)
        sizes = [size for layer in noisy if layer is not None for size in layer]
        factors = iter(draw_factors(sizes, batch_size or 1, generator) if sizes else [])
        # Factors (R, in) and (R, out) of each noisy layer, in the order of `noisy`.
        hidden, output = (layer and LayerNoise(next(factors), next(factors)) for layer in noisy)
        router = phi = order = None
        rows, device = routed_rows or batch_size or 1, generator.device
        if routed_rows and self.head.router_shape is not None:
            router = torch.randn((rows, *self.head.router_shape), generator=generator, device=device)
        if self.head.phi_shape is not None:
            phi = torch.randn((rows, *self.head.phi_shape), generator=generator, device=device)
        if self.config.shuffle == "tokens":
            keys = torch.rand((rows, self.tokenizer.num_tokens), generator=generator, device=device)
            order = keys.argsort(dim=1, stable=True)
        noise = Noise(hidden, output, router, phi, order)
        return None if all(part is None for part in noise) else noise


def _build_encoder(
    config: NetworkConfig, observation_shape: tuple[int, int, int], generator: torch.Generator
) -> ImpalaEncoder | PlainEncoder | ImportedEncoder:
    if is_imported(config.encoder):
        return ImportedEncoder(config, observation_shape, generator)
    how = (config.encoder_width_scale, config.initializer, config.centered_kernels)
    return build_encoder(config.encoder, observation_shape[0], config.padding, generator, *how)


def build_network(
    config: NetworkConfig,
    num_actions: int,
    *,
    observation_shape: tuple[int, int, int] = (4, 84, 84),
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> QNetwork:
    """Return a float32, channels-last network on the CPU, initialised from `generator` or `seed` (None: 0).

    `observation_shape` is (K, H, W), K the planes of all stacked frames. Equal seeds give equal networks.
    """
    if generator is None:
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
    return QNetwork(config, num_actions, observation_shape=observation_shape, generator=generator)
