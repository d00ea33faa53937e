"""The parts that a batch is cut into, so that any number of processes trains one and the same network.

Each part is normalised by its own statistics (ghost batch normalisation: Hoffer, Hubara and Soudry 2017) and
has its own draws. A process takes whole parts, one after the other, and the gradients of all are averaged:
one process with two parts and two processes with one each do the same sums. Sharing the statistics of the
whole batch at each layer (torch.nn.SyncBatchNorm) would do that too, but makes the processes wait for each
other about 200 times a step: on two busy cores it took 2.3 times as long.
"""

from __future__ import annotations

import torch
from torch import distributed, nn

from hounsfield.errors import TrainingError


def count_parts(batch_size: int, wanted: int, world: int) -> int:
    """`wanted` parts, or for 0 one a process and at least two, where the batch has images for them.

    Raises TrainingError when parts cannot be dealt to `world` processes, or images to parts.
    """
    parts = wanted or (world if world > 1 else 2 if batch_size >= 4 and batch_size % 2 == 0 else 1)
    if parts % world:
        raise TrainingError(
            f"batch_parts {parts} cannot be dealt to {world} processes: it must be a multiple"
        )
    if batch_size % parts or batch_size // parts < 2:
        raise TrainingError(
            f"batch_size {batch_size} cannot be dealt to {world} processes in {parts} parts: it must be a "
            f"multiple of {parts} that leaves each part at least 2 images"
        )
    return parts


def most_processes(batch_size: int, wanted: int, cores: int) -> int:
    """How many processes share the parts of a batch evenly, at most `cores`; raises as `count_parts` does.

    Parts that one process takes one after the other cost it: on two cores two processes of one thread each
    train 1.25 times as fast as one process of two threads, which have too little to do with half a batch.
    """
    parts = count_parts(batch_size, wanted, 1)
    return max(number for number in range(1, cores + 1) if parts % number == 0)


class RunningStatistics:
    """The running statistics of every batch normalisation in `network`, averaged over the parts of each step.

    Each part moves them from where the step began; after `end` they are the mean of what the parts made.
    """

    def __init__(self, network: nn.Module) -> None:
        self._values = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        self._counts = [buffer for buffer in network.buffers() if not buffer.is_floating_point()]
        self._start: list[torch.Tensor] = []
        self._sums: list[torch.Tensor] = []

    def begin(self) -> None:
        self._start = [buffer.clone() for buffer in self._values + self._counts]
        self._sums = [torch.zeros_like(buffer) for buffer in self._values]

    def end_part(self) -> None:
        torch._foreach_add_(self._sums, self._values)
        torch._foreach_copy_(self._values + self._counts, self._start)

    def end(self, loss: torch.Tensor, parts: int) -> float:
        """Share the step over all processes, `parts` in all; the mean of `loss`, the sum over this one's."""
        flat = torch.cat([*self._sums, loss.detach().reshape(1)])
        if distributed.is_initialized():
            distributed.all_reduce(flat)
        flat /= parts
        *means, loss_mean = flat.split([*map(len, self._sums), 1])
        torch._foreach_copy_(self._values, means)
        torch._foreach_add_(self._counts, 1)
        return float(loss_mean)
