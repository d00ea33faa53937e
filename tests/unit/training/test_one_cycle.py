import pytest
import torch

from hounsfield.training.schedule import apply, one_cycle


def test_it_is_torchs_own_wherever_that_exists():
    total = 40
    ours, theirs = (torch.optim.AdamW([torch.zeros(1, requires_grad=True)]) for _ in range(2))
    cycle = torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=0.01, total_steps=total, pct_start=0.25)
    for step in range(total):
        apply(ours, 0.01, step, total)
        for name in ("lr", "betas"):
            assert ours.param_groups[0][name] == pytest.approx(theirs.param_groups[0][name], rel=1e-9)
        theirs.step()
        if step + 1 < total:
            cycle.step()


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5])
def test_a_few_steps_have_a_schedule_too(total):
    shares = [one_cycle(step, total)[0] for step in range(total)]
    assert all(0 < share <= 1 for share in shares)
    assert shares[0] == pytest.approx(0.04)
