"""Batch normalisation over processes against torch's own over the whole batch, in float64."""

import pytest
import torch
from torch import distributed, multiprocessing, nn

from hounsfield.training.batchnorm import share_statistics

PARTS = 2


@pytest.mark.parametrize("shape", [(8, 5, 6, 4), (8, 5, 3, 4, 2)])
def test_two_processes_normalise_and_learn_as_one(tmp_path, shape):
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm3d
    torch.manual_seed(1)
    whole = nn.Sequential(kind(5, momentum=0.3)).double()
    nn.init.uniform_(whole[0].weight, 0.5, 2)
    image = (
        torch.randn(shape, dtype=torch.float64) * 3 + 50
    ).requires_grad_()  # far from 0: squares are large
    target = torch.randn(shape, dtype=torch.float64)
    torch.save((whole.state_dict(), image.detach(), target), tmp_path / "given.pt")
    output = whole(image)
    (output * target).sum().backward()

    multiprocessing.spawn(_part, (str(tmp_path), kind), nprocs=PARTS)
    parts = [torch.load(tmp_path / f"part-{rank}.pt") for rank in range(PARTS)]
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(torch.cat([part["output"] for part in parts]), output.detach(), **close)
    torch.testing.assert_close(torch.cat([part["gradient"] for part in parts]), image.grad, **close)
    for name in ("weight", "bias"):
        total = sum(part[name] for part in parts)
        torch.testing.assert_close(total, getattr(whole[0], name).grad, **close)
    for part in parts:
        for name, tensor in whole.state_dict().items():
            torch.testing.assert_close(part["state"][name], tensor, **close)


def _part(rank: int, folder: str, kind: type) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PARTS)
    state, image, target = torch.load(f"{folder}/given.pt")
    network = nn.Sequential(kind(5, momentum=0.3)).double()
    network.load_state_dict(state)
    network = share_statistics(network, torch.device("cpu"))
    half = slice(4 * rank, 4 * rank + 4)
    image = image[half].clone().requires_grad_()
    output = network(image)
    (output * target[half]).sum().backward()
    torch.save(
        {
            "output": output.detach(),
            "gradient": image.grad,
            "weight": network[0].weight.grad,
            "bias": network[0].bias.grad,
            "state": network.state_dict(),
        },
        f"{folder}/part-{rank}.pt",
    )
    distributed.destroy_process_group()
