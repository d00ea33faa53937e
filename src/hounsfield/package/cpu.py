"""What this machine's CPU can compute: some arithmetic is fast, or exact, only with certain instructions."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

# Without them INT8 products are summed in 16 bits and may saturate (ONNX Runtime, "Quantize ONNX models",
# U8S8 data type), so the accuracy that was measured would not hold; bf16 would be emulated, or be fp32.
NEEDS = {
    "fp32": frozenset(),
    "int8": frozenset({"avx512_vnni", "avx_vnni"}),
    "bf16": frozenset({"avx512_bf16", "amx_bf16"}),
}
TOLD = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


@functools.cache
def flags() -> frozenset[str]:
    """The CPU's flags as Linux lists them; empty where it does not."""
    return frozenset(_cpuinfo("flags").split())


def describe() -> dict[str, str]:
    """The CPU's name, and which of the instructions that matter here it has."""
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "features": " ".join(flag for flag in TOLD if flag in flags()),
    }


def unsupported(precision: str) -> str | None:
    """A sentence on why this CPU should not compute in `precision`, or None."""
    needs = NEEDS[precision]
    if needs and not needs & flags():
        return f"this CPU has none of {', '.join(sorted(needs))}, which {precision} needs"
    return None


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition("\t")[0] == key), "")
