"""Number format and memory layout of the arithmetic, where they help.

Measured on 2 cores of an AMD EPYC with AVX512-BF16, batch of 16 at 96 pixels, milliseconds a step
(`python -m bench.training --layouts`): bf16 makes DenseNet121 1.6 times as fast and EfficientNet-B0 slower,
whose depthwise convolutions have no bf16 kernel there; channels-last helps both.
"""

from __future__ import annotations

import torch

FABRIC_NAMES = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def choose(precision: str, architecture: str, device: torch.device) -> str:
    """`fp32`, `bf16` or `fp16` for what `precision` asks; `auto` takes the fastest that the device has."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has_bf16 and architecture == "densenet121" else "fp32"


def memory_format(spatial_dims: int) -> torch.memory_format:
    return torch.channels_last if spatial_dims == 2 else torch.channels_last_3d
