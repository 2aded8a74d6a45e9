"""The noise in the reference's experts in a golden case, which the reference's evaluation mode leaves on.

The reference passes `eval_mode` to its output layers but not to its experts: "noise off" means off in the
output layers, while one draw, shared by all samples and experts, stays on in the experts. The draw is a
function of the key passed to the network and is reproduced here with JAX's generator: Threefry-2x32 (Salmon
et al., 2011), with its counters in the order that JAX calls partitionable. See
docs/decisions/0012-noise-of-the-reference.md.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from models.q_network import QNetwork
from models.values.noisy import LayerNoise, Noise

Key = NDArray[np.uint32]
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
MAX_SEED = 1024
"""Number of keys tried: PRNGKey(0) up to, and without, this one."""
KEY_PARITY = np.uint32(0x1BD11BDA)


def threefry(key: Key, num: int) -> tuple[Key, Key]:
    """Hash counters 0 to num - 1 by 20 rounds of Threefry-2x32, `key` (2,): two uint32 words (num,)."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ KEY_PARITY)
    left = np.full(num, keys[0])
    right = np.arange(num, dtype=np.uint32) + keys[1]
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            left = left + right
            right = (right << np.uint32(rotation)) | (right >> np.uint32(32 - rotation))
            right = right ^ left
        left = left + keys[(group + 1) % 3]
        right = right + (keys[(group + 2) % 3] + np.uint32(group + 1))
    return left, right


def seed_key(seed: int) -> Key:
    """Return `jax.random.PRNGKey(seed)`."""
    return np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)


def split(key: Key, num: int) -> list[Key]:
    """Return `jax.random.split(key, num)`."""
    return list(np.stack(threefry(key, num), axis=1))


def factors(key: Key, size: int) -> torch.Tensor:
    """Return f(x) = sign(x) sqrt(|x|) of `jax.random.normal(key, (size,))`, float32."""
    left, right = threefry(key, size)
    # 23 random bits become the fraction of a float32 between 1 and 2.
    unit = ((left ^ right) >> np.uint32(9) | np.uint32(0x3F800000)).view(np.float32) - np.float32(1.0)
    # Not -1 itself, of which erfinv is minus infinity.
    lowest = np.nextafter(np.float32(-1.0), np.float32(0.0))
    uniform = torch.from_numpy(np.maximum(lowest, unit * (np.float32(1.0) - lowest) + lowest))
    normal = torch.special.erfinv(uniform.double()).float() * float(np.sqrt(2.0))
    found: torch.Tensor = normal.sign() * normal.abs().sqrt()
    return found


def expert_noise(seed: int, sizes: tuple[int, int]) -> Noise:
    """Return the noise of a reference Rainbow network in evaluation under `PRNGKey(seed)`: no output noise.

    `sizes` are (in, out) of the experts' first layer, whose key is the second of three.
    """
    keys = split(split(seed_key(seed), 3)[1], 2)
    hidden = (factors(key, size)[None] for key, size in zip(keys, sizes, strict=True))
    return Noise(LayerNoise(*hidden), output=None)


@torch.no_grad()
def find_noise(
    network: QNetwork, observation: torch.Tensor, hidden: torch.Tensor
) -> tuple[Noise, int] | None:
    """Find noise and seed that made the experts' activations `hidden` (B, E, S, H) of `observation`.

    Returns None if the experts are not noisy, had no noise, or had the noise of a key that is not tried.
    """
    sizes = network.head.noise_sizes
    if sizes is None or hidden.ndim == 0 or network(observation[:1]).hidden.shape != hidden[:1].shape:
        return None
    tokens = network.tokenizer(network.encoder(network.to_image(observation[:1]), scale=1.0 / 255.0))
    for seed in (None, *range(MAX_SEED)):
        noise = None if seed is None else expert_noise(seed, sizes)
        if torch.allclose(network.head(tokens, noise).hidden, hidden[:1], rtol=0.0, atol=1e-4):
            return None if noise is None or seed is None else (noise, seed)
    return None
