import torch

from hounsfield.training.augmentation import augment


def test_strength_zero_changes_nothing():
    image = torch.rand(3, 1, 16, 16)
    assert augment(image, 0.0) is image


def test_augmented_images_stay_in_range_and_differ_from_each_other():
    torch.manual_seed(1)
    image = torch.rand(1, 1, 32, 32).expand(4, 1, 32, 32)
    augmented = augment(image, 2.0)
    assert augmented.shape == image.shape
    assert augmented.min() >= 0
    assert augmented.max() <= 1
    assert not torch.equal(augmented[0], augmented[1])


def test_same_draws_give_the_same_images():
    image = torch.rand(2, 1, 16, 16)
    torch.manual_seed(4)
    first = augment(image, 1.0)
    torch.manual_seed(4)
    assert torch.equal(augment(image, 1.0), first)


def test_about_half_of_the_images_are_mirrored():
    torch.manual_seed(0)
    image = torch.zeros(200, 1, 32, 32)
    image[..., :16] = 1.0  # bright on the left
    mirrored = augment(image, 0.1)[..., 16:].mean(dim=(1, 2, 3)) > 0.5
    assert 70 < mirrored.sum() < 130


def test_volumes_are_augmented_as_images_are():
    volume = torch.rand(2, 1, 8, 16, 16)
    augmented = augment(volume, 1.0)
    assert augmented.shape == volume.shape
    assert 0 <= augmented.min() <= augmented.max() <= 1
    assert augment(volume, 0.0) is volume
