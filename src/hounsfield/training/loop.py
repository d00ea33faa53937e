"""The loop over steps: every step follows from seed and number alone, so that a run may break anywhere.

Lightning's Fabric does the processes, devices and precision. Its Trainer is not used: it goes on from the
middle of an epoch only when sampler, loader and its own counters all agree, and here nothing but the number
of the next step has to be kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from sklearn.metrics import roc_auc_score
from torch import distributed
from torch.nn import functional

from hounsfield.errors import TrainingError
from hounsfield.progress import Reporter
from hounsfield.training import imbalance, precision, schedule
from hounsfield.training.augmentation import augment
from hounsfield.training.batch_parts import RunningStatistics
from hounsfield.training.data import TrainingData
from hounsfield.training.network import Classifier, build_network
from hounsfield.training.params import TrainingParams
from hounsfield.training.tracking import RunLog

_VALIDATION_BATCH = 64


class Loop:
    """One run: the network, its optimizer, and how far it has come; `history` holds a row an epoch.

    `params.batch_parts` is their number, not 0.
    """

    def __init__(self, fabric: Fabric, params: TrainingParams, data: TrainingData) -> None:
        self.fabric, self.params, self.data = fabric, params, data
        self.world, self.rank = fabric.world_size, fabric.global_rank
        self.imbalance = imbalance.choose(params.imbalance, data.train.labels)
        self.odds_factor = 1.0 if self.imbalance == "none" else imbalance.odds_factor(data.train.labels)
        self.precision = precision.choose(params.precision, params.architecture, fabric.device)
        self.layout = precision.memory_format(data.spatial_dims)
        self.parts = params.batch_parts
        self.deal = imbalance.Deal(
            data.train.labels, self._batch_size(), params.seed, balanced=self.imbalance == "sampler"
        )
        self.total = params.epochs * self.deal.steps_per_epoch
        network = build_network(params.architecture, params.seed, params.dropout, data.spatial_dims)
        self.network = network.to(memory_format=self.layout)
        self._raw_optimizer = self._make_optimizer()
        self.model, self.optimizer = fabric.setup(self.network, self._raw_optimizer)
        self._statistics = RunningStatistics(self.network)  # on the device by now
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._losses = 0.0  # of the steps of this epoch
        self._best: dict[str, torch.Tensor] = {}

    @property
    def best_row(self) -> dict[str, float]:
        return max(self.history, key=lambda row: row["validation_auroc"])

    def run(self, log: RunLog | None, save: Callable[[Mapping[str, Any]], None], save_every_s: float) -> None:
        """Train to the end, or until patience is spent. Rank 0 alone has a `log` and calls `save`."""
        reporter = Reporter("train", self.total)
        saved_s = time.monotonic()
        self.model.train()
        while self.step < self.total and not self._out_of_patience():
            self._train_step()
            epoch, over = divmod(self.step, self.deal.steps_per_epoch)
            if over == 0:
                self._end_epoch(epoch - 1, log)
            if self.fabric.is_global_zero:
                said = f", AUROC {self.history[-1]['validation_auroc']:.3f}" if self.history else ""
                reporter.update(
                    self.step, f"batches, epoch {(self.step - 1) // self.deal.steps_per_epoch}{said}"
                )
                if time.monotonic() - saved_s >= save_every_s:
                    save(self.state(log))
                    saved_s = time.monotonic()

    def state(self, log: RunLog | None) -> dict[str, Any]:
        """All that a run needs to go on; draws need nothing, for each step seeds its own."""
        return {
            "step": self.step,
            "losses": self._losses,
            "history": self.history,
            "network": self.network.state_dict(),
            "best": self._best,
            "optimizer": self._raw_optimizer.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "run_id": log.run_id if log else None,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.step, self._losses = state["step"], state["losses"]
        self.history, self._best = list(state["history"]), dict(state["best"])
        self.network.load_state_dict(state["network"])
        self._raw_optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])

    def best_network(self) -> Classifier:
        """The network of the best epoch, its logit set right for the prevalence of the training split.

        Weights and sampler both multiply the odds that the network learns by a factor, so its logarithm is
        taken off the bias: the order of images stays.
        """
        network = build_network(
            self.params.architecture, self.params.seed, self.params.dropout, self.data.spatial_dims
        )
        network.load_state_dict(self._best)
        with torch.no_grad():
            network.head.bias -= math.log(self.odds_factor)
        return network

    def _batch_size(self) -> int:
        size, images = self.params.batch_size, len(self.data.train)
        if images < 2 * self.parts:
            raise TrainingError(
                f"the train split has {images} images, too few for {self.parts} parts of a batch"
            )
        return min(size, images - images % self.parts)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        # Weight decay shrinks kernels; on biases and batch-norm parameters it only shifts the statistics.
        kernels = [weight for weight in self.network.parameters() if weight.ndim > 1]
        others = [weight for weight in self.network.parameters() if weight.ndim <= 1]
        return torch.optim.AdamW(
            [
                {"params": kernels, "weight_decay": self.params.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self.params.learning_rate,
            fused=True,  # one kernel for all weights: on two cores 4 ms a step instead of 11
        )

    def _train_step(self) -> None:
        batch = np.split(self.deal.batch(self.step), self.parts)
        each = self.parts // self.world
        mine = range(self.rank * each, (self.rank + 1) * each)
        self.optimizer.zero_grad()
        self._statistics.begin()
        losses = torch.zeros((), device=self.fabric.device)
        for part in mine:
            torch.manual_seed(imbalance.draw_seed(self.params.seed, self.step, part))
            image, label = (given.to(self.fabric.device) for given in self.data.train.batch(batch[part]))
            image = augment(image, self.params.augmentation).contiguous(memory_format=self.layout)
            with self.fabric.no_backward_sync(self.model, enabled=part != mine[-1]):
                logit, _ = self.model(image)
                loss = self._loss(logit.float(), label)
                self.fabric.backward(loss / each)
            losses += loss.detach()
            self._statistics.end_part()
        mean = self._statistics.end(losses, self.parts)
        if not math.isfinite(mean):  # in every process, so that all stop here
            raise self._diverged(f"the loss is {mean} in epoch {self.step // self.deal.steps_per_epoch}")
        self._losses += mean
        schedule.apply(self._raw_optimizer, self.params.learning_rate, self.step, self.total)
        self.optimizer.step()
        self.step += 1

    def _loss(self, logit: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        weight = None
        if self.imbalance == "weights":
            weight = torch.tensor(self.odds_factor, device=logit.device)
        return functional.binary_cross_entropy_with_logits(logit, label, pos_weight=weight)

    def _end_epoch(self, epoch: int, log: RunLog | None) -> None:
        logit, label = self._validate()
        if not torch.isfinite(logit).all():
            raise self._diverged(f"the network's answers are not finite after epoch {epoch}")
        row = {
            "epoch": epoch,
            "train_loss": self._losses / self.deal.steps_per_epoch,
            "validation_loss": float(self._loss(logit, label)),
            "validation_auroc": float(roc_auc_score(label.numpy(), logit.numpy())),
        }
        self._losses = 0.0
        self.history.append(row)
        if self.best_row is row:
            self._best = {
                name: tensor.detach().to("cpu", copy=True)
                for name, tensor in self.network.state_dict().items()
            }
        if log is not None:
            # Katib's StdOut collector reads `name=value`; one line an epoch.
            print(
                f"epoch={epoch} train_loss={row['train_loss']:.4f} "
                f"validation_loss={row['validation_loss']:.4f} "
                f"validation_auroc={row['validation_auroc']:.4f}",
                flush=True,
            )
            log.metrics({name: value for name, value in row.items() if name != "epoch"}, epoch)

    @torch.no_grad()
    def _validate(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and labels of the whole validation split, each image once; in fp32, as served."""
        mine = np.arange(self.rank, len(self.data.validation), self.world)
        self.network.eval()
        logits = []
        for start in range(0, len(mine), _VALIDATION_BATCH):
            image, _ = self.data.validation.batch(mine[start : start + _VALIDATION_BATCH])
            image = image.to(self.fabric.device, memory_format=self.layout)
            logits.append(self.network(image)[0].float().cpu())
        self.network.train()
        answers = np.zeros(len(self.data.validation), dtype=np.float32)
        parts = [(mine, torch.cat(logits).numpy() if logits else answers[:0])]
        if self.world > 1:
            gathered: list[Any] = [None] * self.world
            distributed.all_gather_object(gathered, parts[0])
            parts = gathered
        for positions, part in parts:
            answers[positions] = part
        return torch.from_numpy(answers), torch.from_numpy(self.data.validation.labels)

    def _out_of_patience(self) -> bool:
        if not self.params.patience_epochs or not self.history:
            return False
        return self.history[-1]["epoch"] - self.best_row["epoch"] >= self.params.patience_epochs

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"{what}: training diverged; lower the learning rate, which is {self.params.learning_rate:g}"
        )
