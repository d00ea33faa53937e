"""The networks: one forward contract, and how a trained one is kept on disk.

Every network takes `(N, 1, S, S)`, or `(N, 1, D, S, S)` for volumes, float32 in [0, 1] and answers
`(logit (N,), embedding (N, E))`, so that evaluation, packaging and drift detection need not know the
architecture.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hounsfield.errors import TrainingError
from hounsfield.training.params import TRAINED
from hounsfield.training.whole_file import write_whole

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
        """`image` (N, 1, [D,] S, S) float32 in [0, 1] -> logit (N,) and embedding (N, E), both float32."""
        embedding = self.body(image)
        return self.head(self.dropout(embedding)).squeeze(1), embedding


class PixelStatistics(nn.Module):
    """The body of the baseline: an 8 x 8 (x 8) grid of mean intensities, then mean and spread of the image.

    `shift` and `scale` (66,), or (514,) for volumes, standardise the features; they are fitted with the head.
    """

    GRID = 8

    def __init__(self, spatial_dims: int = 2) -> None:
        super().__init__()
        self.size = self.GRID**spatial_dims + 2
        self.register_buffer("shift", torch.zeros(self.size))
        self.register_buffer("scale", torch.ones(self.size))

    def statistics(self, image: torch.Tensor) -> torch.Tensor:
        """`image` (N, 1, [D,] S, S) -> (N, 66 or 514), not standardised. The spread divides by the count."""
        pool = nn.functional.adaptive_avg_pool2d
        cells = pool(image.flatten(1, -3), self.GRID)
        if image.ndim == 5:
            # Then along the planes: the exporter to ONNX knows no pooling in three directions.
            cells = pool(cells.flatten(2).unsqueeze(1), (self.GRID, self.GRID**2))
        flat = image.flatten(1)
        mean = flat.mean(dim=1, keepdim=True)
        spread = ((flat - mean) ** 2).mean(dim=1, keepdim=True).sqrt()
        return torch.cat([cells.flatten(1), mean, spread], dim=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (self.statistics(image) - self.shift) / self.scale


def build_network(architecture: str, seed: int, dropout: float = 0.2, spatial_dims: int = 2) -> Classifier:
    """A network with weights drawn from `seed` alone; nothing is downloaded. `spatial_dims` is 2 or 3.

    Raises TrainingError for an architecture that is not one of `ARCHITECTURES`.
    """
    if architecture not in ARCHITECTURES:
        raise TrainingError(f"architecture {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture == "pixel-statistics":
            body = PixelStatistics(spatial_dims)
            return Classifier(body, body.size)
        if architecture == "densenet121":
            return _densenet121(dropout, spatial_dims)
        return Classifier(PooledStages(spatial_dims), PooledStages.SIZE, dropout)


class PooledStages(nn.Module):
    """The body of `efficientnet-b0`: the stages at strides 4, 8, 16 and 32, each pooled to mean and maximum.

    A finding is small, and the last map of a small image is 3 x 3 or 4 x 4: the maximum keeps what the mean
    would thin out. The short way from the early stages to the head is also what lets a network without
    pretrained weights leave chance within some hundred steps; from the last stage alone it needs many more.
    """

    CHANNELS = (24, 40, 112, 320)
    SIZE = 2 * sum(CHANNELS)

    def __init__(self, spatial_dims: int = 2) -> None:
        from monai.networks.nets import EfficientNetBNFeatures

        super().__init__()
        # MONAI's momentum of 0.01 suits runs of many thousand steps: after the few hundred of a small set the
        # running statistics would still lean on their start. Its eps of 0.001 would drown thin activations.
        self.stages = EfficientNetBNFeatures(
            "efficientnet-b0",
            pretrained=False,
            spatial_dims=spatial_dims,
            in_channels=1,
            norm=("batch", {"eps": 1e-5, "momentum": 0.1}),
        )
        for unused in ("_conv_head", "_bn1", "_fc"):
            setattr(self.stages, unused, nn.Identity())
        for module in self.stages.modules():
            if hasattr(module, "_swish"):
                module._swish = nn.SiLU()  # fused, and it exports to ONNX; MONAI's own is neither
            if hasattr(module, "drop_connect_rate"):
                module.drop_connect_rate = 0.0  # from scratch on a small set, depth is not what overfits
            is_residual = getattr(module, "id_skip", False) and module.stride == 1
            if is_residual and module.in_channels == module.out_channels:
                # Goyal et al. 2017, 5.1: branches that start at zero start as a shallower network.
                nn.init.zeros_(module._bn2.weight)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps = self.stages(image)[1:]  # the first is at stride 2: texture, and the most to pool
        space = tuple(range(2, image.ndim))
        means = [stage.mean(dim=space) for stage in maps]
        maxima = [stage.amax(dim=space) for stage in maps]
        return torch.cat(means + maxima, dim=1)


def _densenet121(dropout: float, spatial_dims: int) -> Classifier:
    from monai.networks.nets import DenseNet121

    body = DenseNet121(spatial_dims=spatial_dims, in_channels=1, out_channels=1, pretrained=False)
    embedding_size = body.class_layers.out.in_features
    body.class_layers.out = nn.Identity()
    return Classifier(body, embedding_size, dropout)


def save_network(network: Classifier, model_dir: Path, record: Mapping[str, Any]) -> None:
    """Write `weights.pt`, then `training.json` with `record`, whose `architecture` says how to load it.

    Each file is renamed into place and the record comes last: a folder with a record is a whole model, and
    when a write fails neither is left. Raises OSError.
    """
    (model_dir / RECORD_FILE).unlink(missing_ok=True)
    buffer = io.BytesIO()
    weights = network.state_dict()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, buffer)
    try:
        write_whole(model_dir / WEIGHTS_FILE, buffer.getvalue())
        text = json.dumps(dict(record), indent=2, sort_keys=True) + "\n"
        write_whole(model_dir / RECORD_FILE, text.encode())
    except OSError:
        (model_dir / WEIGHTS_FILE).unlink(missing_ok=True)
        raise


def weights_digest(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor: equal digests mean equal networks."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


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
    network = build_network(record["architecture"], seed=0, spatial_dims=record.get("spatial_dims", 2))
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
