"""Which engine a package runs on: three words in `model.json`."""

from __future__ import annotations

import dataclasses

from hounsfield.errors import ConfigError

MODEL = "model.onnx"
INT8_MODEL = "model.int8.onnx"
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
PRECISIONS = ("fp32", "bf16", "int8")


@dataclasses.dataclass(frozen=True)
class EngineChoice:
    """The runtime, the arithmetic, and the file of the package that it opens."""

    runtime: str = "onnxruntime"
    precision: str = "fp32"
    file: str = MODEL

    def __post_init__(self) -> None:
        if self.runtime not in TITLES:
            raise ConfigError(f"engine: runtime {self.runtime!r} is not one of {', '.join(TITLES)}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"engine: precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")
        if self.file != (INT8_MODEL if self.precision == "int8" else MODEL):
            raise ConfigError(f"engine: file {self.file!r} is not the file of precision {self.precision!r}")
        if (self.runtime, self.precision) == ("onnxruntime", "bf16"):
            raise ConfigError("engine: ONNX Runtime has no precision 'bf16' on a CPU")

    @property
    def title(self) -> str:
        return f"{TITLES[self.runtime]} {self.precision}"
