import pytest
import torch
from torch import nn

from hounsfield.errors import TrainingError
from hounsfield.training.batch_parts import RunningStatistics, count_parts, most_processes


@pytest.mark.parametrize(
    ("batch_size", "wanted", "world", "parts"),
    [(16, 0, 1, 2), (16, 0, 2, 2), (16, 0, 4, 4), (16, 1, 1, 1), (16, 4, 2, 4), (3, 0, 1, 1), (5, 0, 1, 1)],
)
def test_parts_are_two_at_least_so_that_two_processes_do_what_one_does(batch_size, wanted, world, parts):
    assert count_parts(batch_size, wanted, world) == parts


@pytest.mark.parametrize(
    ("batch_size", "wanted", "world", "said"),
    [
        (16, 3, 2, "batch_parts 3 cannot be dealt to 2 processes"),
        (16, 1, 2, "batch_parts 1 cannot be dealt to 2 processes"),
        (10, 4, 2, "batch_size 10 cannot be dealt to 2 processes in 4 parts"),
        (4, 0, 4, "batch_size 4 cannot be dealt to 4 processes in 4 parts: .* at least 2 images"),
        (1, 0, 1, "batch_size 1 cannot be dealt to 1 processes"),
    ],
)
def test_what_cannot_be_dealt_is_refused(batch_size, wanted, world, said):
    with pytest.raises(TrainingError, match=said):
        count_parts(batch_size, wanted, world)


@pytest.mark.parametrize(
    ("batch_size", "wanted", "cores", "processes"),
    [(16, 0, 1, 1), (16, 0, 2, 2), (16, 0, 8, 2), (16, 4, 3, 2), (16, 4, 8, 4), (16, 1, 8, 1), (5, 0, 8, 1)],
)
def test_each_process_gets_as_many_parts_as_every_other(batch_size, wanted, cores, processes):
    assert most_processes(batch_size, wanted, cores) == processes


def test_running_statistics_are_the_mean_of_what_the_parts_make():
    network = nn.BatchNorm2d(1, momentum=0.5)
    statistics = RunningStatistics(network)
    statistics.begin()
    for value in (2.0, 6.0):
        network(torch.tensor([value - 1, value + 1]).reshape(2, 1, 1, 1))
        statistics.end_part()
    # Means 0.5 * 0 + 0.5 * 2 = 1 and 0.5 * 6 = 3; both variances 0.5 * 1 + 0.5 * 2, unbiased.
    assert statistics.end(torch.tensor(0.6 + 0.2), parts=2) == pytest.approx(0.4)
    assert network.running_mean.item() == 2.0
    assert network.running_var.item() == 1.5
    assert network.num_batches_tracked.item() == 1  # one step, however many parts
