"""The Lightning module: loss, schedule, and metrics over all processes."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from sklearn.metrics import roc_auc_score
from torch import distributed
from torch.nn import functional

from hounsfield.errors import TrainingError
from hounsfield.progress import Reporter
from hounsfield.training.augmentation import augment
from hounsfield.training.network import build_network
from hounsfield.training.params import TrainingParams
from hounsfield.training.tracking import RunLog

CHECKPOINT_KEY = "hounsfield"


class ClassifierModule(pl.LightningModule):
    """Trains the network of `params`; `history` holds a row an epoch.

    `run_log` is given on rank 0 only.
    """

    def __init__(self, params: TrainingParams, positive_weight: float) -> None:
        super().__init__()
        self.params = params
        self.network = build_network(params.architecture, params.seed, params.dropout)
        self.network.to(memory_format=torch.channels_last)
        self.positive_weight = positive_weight
        self.history: list[dict[str, float]] = []
        self.run_log: RunLog | None = None
        self._reporter: Reporter | None = None
        self._train_losses: list[torch.Tensor] = []
        self._validation: list[tuple[torch.Tensor, torch.Tensor]] = []

    def configure_optimizers(self) -> dict[str, Any]:
        # Weight decay shrinks kernels; on biases and batch-norm parameters it only shifts the statistics.
        kernels = [weight for weight in self.network.parameters() if weight.ndim > 1]
        others = [weight for weight in self.network.parameters() if weight.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": kernels, "weight_decay": self.params.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self.params.learning_rate,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.params.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=0.25,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loss(self, logit: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        weight = torch.tensor(self.positive_weight, device=logit.device)
        return functional.binary_cross_entropy_with_logits(logit, label, pos_weight=weight)

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"{what}: training diverged; lower the learning rate, which is {self.params.learning_rate:g}"
        )

    def on_train_epoch_start(self) -> None:
        # Every draw of an epoch (augmentation, dropout) follows from seed, epoch and rank, so that a run
        # resumed at an epoch draws what the unbroken run would have drawn.
        torch.manual_seed(self.params.seed + 1_000_003 * (self.current_epoch + 1) + 7919 * self.global_rank)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_index: int) -> torch.Tensor:
        image, label = batch
        image = augment(image, self.params.augmentation).contiguous(memory_format=torch.channels_last)
        loss = self._loss(self.network(image)[0], label)
        if not torch.isfinite(loss):
            raise self._diverged(f"the loss is {loss.item()} in epoch {self.current_epoch}")
        self._train_losses.append(loss.detach())
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        if self.global_rank == 0:
            total = int(self.trainer.estimated_stepping_batches)
            self._reporter = self._reporter or Reporter("train", total)
            last = f", AUROC {self.history[-1]['validation_auroc']:.3f}" if self.history else ""
            self._reporter.update(self.global_step, f"batches, epoch {self.current_epoch}{last}")

    def on_validation_epoch_start(self) -> None:
        self._validation.clear()
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            # Each process has seen its own images: their batch statistics are averaged, so that all validate,
            # and rank 0 saves, one and the same network.
            for buffer in self.network.buffers():
                if buffer.is_floating_point():
                    distributed.all_reduce(buffer)
                    buffer /= distributed.get_world_size()

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_index: int) -> None:
        image, label = batch
        logit, _ = self.network(image.contiguous(memory_format=torch.channels_last))
        self._validation.append((logit, label))

    def on_validation_epoch_end(self) -> None:
        mine = (
            [logit.cpu() for logit, _ in self._validation],
            [label.cpu() for _, label in self._validation],
            [loss.cpu() for loss in self._train_losses],
        )
        self._train_losses.clear()
        everyone = [mine]
        if distributed.is_initialized():
            everyone = [None] * distributed.get_world_size()
            distributed.all_gather_object(everyone, mine)
        logit = torch.cat([part for logits, _, _ in everyone for part in logits])
        label = torch.cat([part for _, labels, _ in everyone for part in labels])
        train_loss = torch.stack([loss for _, _, losses in everyone for loss in losses]).mean()
        if not torch.isfinite(logit).all():
            raise self._diverged(f"the network's answers are not finite after epoch {self.current_epoch}")
        row = {
            "epoch": self.current_epoch,
            "train_loss": float(train_loss),
            "validation_loss": float(self._loss(logit, label)),
            "validation_auroc": float(roc_auc_score(label.numpy(), logit.numpy())),
        }
        self.history.append(row)
        self.log("validation_auroc", row["validation_auroc"])
        if self.global_rank == 0:
            # Katib's StdOut collector reads `name=value`; one line an epoch.
            print(
                f"epoch={row['epoch']} train_loss={row['train_loss']:.4f} "
                f"validation_loss={row['validation_loss']:.4f} "
                f"validation_auroc={row['validation_auroc']:.4f}",
                flush=True,
            )
            if self.run_log is not None:
                metrics = {name: value for name, value in row.items() if name != "epoch"}
                self.run_log.metrics(metrics, self.current_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT_KEY] = {
            "history": self.history,
            "run_id": self.run_log.run_id if self.run_log else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = list(checkpoint[CHECKPOINT_KEY]["history"])

    def remove_prior_shift(self) -> None:
        """Undo what the class weight did to the logit.

        Weighting positives by w multiplies the odds that the network learns by w, so log w is taken off the
        bias: the logit then speaks of the prevalence in the training split, and the order of images stays.
        """
        with torch.no_grad():
            self.network.head.bias -= math.log(self.positive_weight)
