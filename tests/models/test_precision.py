"""Which data type networks compute in."""

import pytest
import torch

from models.precision import choose_dtype


def test_auto_takes_bfloat16_only_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, expected in (
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx2": True, "amx_bf16": False}, torch.float32),
        ({}, torch.float32),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert choose_dtype("auto") == expected
    for supported, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, s=supported: s)
        assert choose_dtype("auto", "cuda") == expected


def test_a_precision_that_is_named_is_taken_anywhere() -> None:
    for device in ("cpu", "cuda"):
        assert choose_dtype("float32", device) == torch.float32
        assert choose_dtype("bfloat16", device) == torch.bfloat16
