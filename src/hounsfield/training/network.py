"""The networks: one forward contract, and how a trained one is kept on disk.

Every network takes `(N, 1, S, S)` float32 in [0, 1] and answers `(logit (N,), embedding (N, E))`, so that
evaluation, packaging and drift detection need not know the architecture.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hounsfield.errors import TrainingError
from hounsfield.training.params import TRAINED

ARCHITECTURES = (*TRAINED, "pixel-statistics")

WEIGHTS_FILE = "weights.pt"
RECORD_FILE = "training.json"


class Classifier(nn.Module):
    """A body that makes the embedding, and a linear head that makes the logit."""

    def __init__(self, body: nn.Module, embedding_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = body
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(embedding_size, 1)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`image` (N, 1, S, S) float32 in [0, 1] -> logit (N,) and embedding (N, E), both float32."""
        embedding = self.body(image)
        return self.head(self.dropout(embedding)).squeeze(1), embedding


class PixelStatistics(nn.Module):
    """The body of the baseline: an 8 x 8 grid of mean intensities, then the mean and spread of the image.

    `shift` and `scale` (66,) standardise the features; they are fitted with the head.
    """

    GRID = 8
    SIZE = GRID * GRID + 2

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(self.SIZE))
        self.register_buffer("scale", torch.ones(self.SIZE))

    def statistics(self, image: torch.Tensor) -> torch.Tensor:
        """`image` (N, 1, S, S) -> (N, 66), not yet standardised. The spread divides by the pixel count."""
        grid = nn.functional.adaptive_avg_pool2d(image, self.GRID).flatten(1)
        mean = image.mean(dim=(1, 2, 3)).unsqueeze(1)
        spread = ((image - mean[:, :, None, None]) ** 2).mean(dim=(1, 2, 3)).sqrt().unsqueeze(1)
        return torch.cat([grid, mean, spread], dim=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (self.statistics(image) - self.shift) / self.scale


def build_network(architecture: str, seed: int, dropout: float = 0.2) -> Classifier:
    """A network with weights drawn from `seed` alone; nothing is downloaded.

    Raises TrainingError for an architecture that is not one of `ARCHITECTURES`.
    """
    if architecture not in ARCHITECTURES:
        raise TrainingError(f"architecture {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture == "pixel-statistics":
            return Classifier(PixelStatistics(), PixelStatistics.SIZE)
        if architecture == "densenet121":
            return _densenet121(dropout)
        return Classifier(PooledStages(), PooledStages.SIZE, dropout)


class PooledStages(nn.Module):
    """The body of `efficientnet-b0`: the stages at strides 4, 8, 16 and 32, each pooled to mean and maximum.

    A finding is small, and the last map of a small image is 3 x 3 or 4 x 4: the maximum keeps what the mean
    would thin out. The short way from the early stages to the head is also what lets a network without
    pretrained weights leave chance within some hundred steps; from the last stage alone it needs many more.
    """

    CHANNELS = (24, 40, 112, 320)
    SIZE = 2 * sum(CHANNELS)

    def __init__(self) -> None:
        from monai.networks.nets import EfficientNetBNFeatures

        super().__init__()
        # MONAI's momentum of 0.01 suits runs of many thousand steps: after the few hundred of a small set the
        # running statistics would still lean on their start. Its eps of 0.001 would drown thin activations.
        self.stages = EfficientNetBNFeatures(
            "efficientnet-b0",
            pretrained=False,
            spatial_dims=2,
            in_channels=1,
            norm=("batch", {"eps": 1e-5, "momentum": 0.1}),
        )
        for unused in ("_conv_head", "_bn1", "_fc"):
            setattr(self.stages, unused, nn.Identity())
        for module in self.stages.modules():
            if hasattr(module, "_swish"):
                module._swish = (
                    nn.SiLU()
                )  # one fused kernel, and it exports to ONNX; MONAI's own does neither
            if hasattr(module, "drop_connect_rate"):
                module.drop_connect_rate = 0.0  # from scratch on a small set, depth is not what overfits
            is_residual = getattr(module, "id_skip", False) and module.stride == 1
            if is_residual and module.in_channels == module.out_channels:
                # Goyal et al. 2017, 5.1: branches that start at zero start as a shallower network.
                nn.init.zeros_(module._bn2.weight)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps = self.stages(image)[1:]  # the first is at stride 2: texture, and the most to pool
        means = [stage.mean(dim=(2, 3)) for stage in maps]
        maxima = [stage.amax(dim=(2, 3)) for stage in maps]
        return torch.cat(means + maxima, dim=1)


def _densenet121(dropout: float) -> Classifier:
    from monai.networks.nets import DenseNet121

    body = DenseNet121(spatial_dims=2, in_channels=1, out_channels=1, pretrained=False)
    embedding_size = body.class_layers.out.in_features
    body.class_layers.out = nn.Identity()
    return Classifier(body, embedding_size, dropout)


def save_network(network: Classifier, model_dir: Path, record: Mapping[str, Any]) -> None:
    """Write `weights.pt`, then `training.json` with `record`, whose `architecture` says how to load it.

    Each is renamed into place and the record comes last: a folder with a record is a whole model.
    """
    model_dir.mkdir(parents=True, exist_ok=True)
    (model_dir / RECORD_FILE).unlink(missing_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    temporary = model_dir / f".{WEIGHTS_FILE}.{os.getpid()}"
    torch.save(weights, temporary)
    temporary.replace(model_dir / WEIGHTS_FILE)
    temporary = model_dir / f".{RECORD_FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(dict(record), indent=2, sort_keys=True) + "\n")
    temporary.replace(model_dir / RECORD_FILE)


def load_record(model_dir: Path) -> dict[str, Any]:
    """`training.json` of a trained model; TrainingError when the folder does not hold a whole model."""
    try:
        record = json.loads((model_dir / RECORD_FILE).read_text())
    except FileNotFoundError:
        raise TrainingError(
            f"{model_dir} holds no {RECORD_FILE}: training did not end there; run `hounsfield train` again"
        ) from None
    except json.JSONDecodeError as error:
        raise TrainingError(f"{model_dir / RECORD_FILE} is not JSON ({error}); train again") from None
    if "architecture" not in record:
        raise TrainingError(f"{model_dir / RECORD_FILE}: key 'architecture' is missing")
    return record


def load_network(model_dir: Path) -> Classifier:
    """The trained network in `eval` mode on the CPU, with gradients off for its weights.

    Raises TrainingError when the folder is incomplete or the weights are of another architecture.
    """
    record = load_record(model_dir)
    network = build_network(record["architecture"], seed=0)
    try:
        weights = torch.load(model_dir / WEIGHTS_FILE, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainingError(f"{model_dir} holds no {WEIGHTS_FILE}; train again") from None
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise TrainingError(
            f"{model_dir / WEIGHTS_FILE} does not fit the architecture "
            f"{record['architecture']!r}; train again"
        ) from None
    return network.eval().requires_grad_(False)
