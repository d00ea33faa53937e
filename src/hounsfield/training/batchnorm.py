"""Batch normalisation over all processes, so that a batch cut into parts is normalised as the whole.

Without it each process would normalise by its own part: half the images give noisier statistics, and two
processes would train another network than one. torch.nn.SyncBatchNorm does the same, on GPUs only.
"""

from __future__ import annotations

import torch
from torch import distributed, nn
from torch.nn import functional


def share_statistics(network: nn.Module, device: torch.device) -> nn.Module:
    """`network` with every batch normalisation over all processes; the names in its state stay."""
    if device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, SharedBatchNorm(child))
    return network


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A batch normalisation of `like`'s parameters and buffers. Every process must hold as many values."""

    def __init__(self, like: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__(like.num_features, like.eps, like.momentum)
        self.weight, self.bias = like.weight, like.bias
        self.running_mean, self.running_var = like.running_mean, like.running_var
        self.num_batches_tracked = like.num_batches_tracked

    def _check_input_dim(self, input: torch.Tensor) -> None: ...

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(input)
        self.num_batches_tracked += 1
        return _Normalise.apply(
            input, self.weight, self.bias, self.running_mean, self.running_var, self.momentum, self.eps
        )


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps):
        world = distributed.get_world_size()
        # Sums over rows of (values, C): several times faster than torch.var_mean over the other axes. Taken
        # about the running mean, the same in every process, so that squares do not swallow the variance.
        centred = x.movedim(1, -1).reshape(-1, x.shape[1]).to(running_mean.dtype) - running_mean
        sums = torch.stack([centred.sum(0), (centred * centred).sum(0)])
        distributed.all_reduce(sums)
        count = len(centred) * world
        shift, square = sums / count
        mean, variance = running_mean + shift, (square - shift * shift).clamp_(min=0)
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * (count / max(count - 1, 1)), momentum)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.count = eps, count
        return functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx, grad):
        x, weight, mean, variance = ctx.saved_tensors
        # With fixed statistics first: d(input) of that, and the sums over this process of grad * normalised
        # and of grad, which are the gradients of weight and bias too (DDP averages those).
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([grad_weight, grad_bias])
        distributed.all_reduce(sums)
        # Ioffe and Szegedy 2015, section 3: what mean and variance add to the gradient is linear in x.
        inverse = torch.rsqrt(variance + ctx.eps)
        slope = weight * inverse * inverse * sums[0] / ctx.count
        offset = weight * inverse * sums[1] / ctx.count - slope * mean
        shape = (1, -1, *[1] * (x.ndim - 2))
        grad_x = grad_x - (slope.view(shape) * x + offset.view(shape)).to(grad_x.dtype)
        return grad_x, grad_weight, grad_bias, None, None, None, None
