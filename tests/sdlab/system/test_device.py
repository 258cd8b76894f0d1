"""Device and dtype by name."""

from __future__ import annotations

import pytest
import torch

from sdlab.system.device import resolve, resolve_dtype


def test_an_explicit_dtype_is_kept_on_every_device() -> None:
    for name in ("float32", "bfloat16", "float16"):
        for device in ("cpu", "cuda:1", "mps"):
            assert resolve_dtype(name, device) == name


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_only_on_hardware_that_has_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "bfloat16" if native else "float32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_dtype("auto", "cpu") == expected
    assert resolve_dtype("auto", "cuda") == expected
    assert resolve_dtype("auto", "mps") == "float32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_dtype("auto", "cuda") == "float32"  # of a GPU on another machine nothing is known


def test_a_missing_device_is_refused() -> None:
    assert resolve("cpu") == "cpu"
    with pytest.raises(ValueError, match=r"is not on this machine, which has \d+ CUDA devices"):
        resolve("cuda:99")
