import numpy as np
import pytest
import torch

from hounsfield.errors import TrainingError
from hounsfield.training.network import (
    ARCHITECTURES,
    build_network,
    load_network,
    load_record,
    save_network,
    weights_digest,
)


@pytest.mark.parametrize(
    ("architecture", "embedding_size"),
    [("efficientnet-b0", 992), ("densenet121", 1024), ("pixel-statistics", 66)],
)
def test_every_architecture_answers_logit_and_embedding(architecture, embedding_size):
    logit, embedding = build_network(architecture, seed=7).eval()(torch.rand(2, 1, 64, 64))
    assert logit.shape == (2,)
    assert embedding.shape == (2, embedding_size)


@pytest.mark.parametrize(
    ("architecture", "embedding_size"),
    [("efficientnet-b0", 992), ("densenet121", 1024), ("pixel-statistics", 514)],
)
def test_every_architecture_takes_volumes(architecture, embedding_size):
    network = build_network(architecture, seed=7, spatial_dims=3).eval()
    logit, embedding = network(torch.rand(2, 1, 32, 40, 40))
    assert logit.shape == (2,)
    assert embedding.shape == (2, embedding_size)


def test_a_network_of_volumes_is_loaded_as_one(tmp_path):
    network = build_network("pixel-statistics", 0, spatial_dims=3)
    save_network(network, tmp_path, {"architecture": "pixel-statistics", "spatial_dims": 3})
    image = torch.rand(1, 1, 8, 16, 16)
    assert torch.equal(load_network(tmp_path)(image)[1], network.eval()(image)[1])


def test_digest_of_weights_changes_with_any_value_and_not_with_the_file():
    first, same, other = (build_network("pixel-statistics", seed).state_dict() for seed in (1, 1, 2))
    assert weights_digest(first) == weights_digest(same) != weights_digest(other)


def test_seed_alone_decides_the_first_weights():
    first, same, other = (build_network("efficientnet-b0", seed) for seed in (1, 1, 2))
    first, same, other = (network.body.stages._conv_stem.weight for network in (first, same, other))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_building_a_network_leaves_the_global_draws_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_network("pixel-statistics", seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_pixel_statistics_are_cell_means_then_mean_and_spread():
    image = torch.zeros(1, 1, 16, 16)
    image[0, 0, :2, :2] = 1.0  # one cell of the 8 x 8 grid: 4 of 256 pixels
    statistics = build_network("pixel-statistics", 0).body.statistics(image)[0]
    assert statistics[0] == 1.0
    assert statistics[1:64].abs().max() == 0
    assert statistics[64] == pytest.approx(4 / 256)
    assert statistics[65] == pytest.approx(np.sqrt(4 / 256 * 252 / 256))


def test_pixel_statistics_of_a_volume_are_pooled_in_three_directions():
    volume = torch.rand(2, 1, 20, 32, 24)
    statistics = build_network("pixel-statistics", 0, spatial_dims=3).body.statistics(volume)
    pooled = torch.nn.functional.adaptive_avg_pool3d(volume, 8).flatten(1)
    assert torch.allclose(statistics[:, :512], pooled, atol=1e-6)


def test_saved_network_answers_the_same(tmp_path):
    network = build_network("efficientnet-b0", seed=7)
    network.train()(torch.rand(4, 1, 32, 32))  # moves the running statistics, which must be kept too
    save_network(network, tmp_path, {"architecture": "efficientnet-b0", "note": 1})
    image = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_network(tmp_path)(image)[0], network.eval()(image)[0])
    assert load_record(tmp_path)["note"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["training.json", "weights.pt"]


def test_weights_of_another_architecture_are_refused(tmp_path):
    save_network(build_network("pixel-statistics", 0), tmp_path, {"architecture": "efficientnet-b0"})
    with pytest.raises(TrainingError, match="does not fit the architecture 'efficientnet-b0'"):
        load_network(tmp_path)


def test_a_folder_without_a_record_is_no_model(tmp_path):
    with pytest.raises(TrainingError, match=r"holds no training\.json"):
        load_network(tmp_path)


def test_unknown_architecture_is_refused_by_name():
    with pytest.raises(TrainingError, match=f"'resnet' is not one of {', '.join(ARCHITECTURES)}"):
        build_network("resnet", 0)
