"""The data type that networks compute in."""

from collections.abc import Mapping
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def choose_dtype(precision: Precision, device: torch.device | str = "cpu") -> torch.dtype:
    """Return the dtype of forward and backward; `auto` is bfloat16 where the hardware multiplies it."""
    if precision != "auto":
        return torch.float32 if precision == "float32" else torch.bfloat16
    if torch.device(device).type == "cuda":
        # Emulated bfloat16 saves no time.
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Older versions of torch do not report the CPU's capabilities; float32 is then the safe choice.
        capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        fast = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if fast else torch.float32
