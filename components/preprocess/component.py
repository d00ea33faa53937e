"""Step preprocess: images to tensors by the contract that serving uses too."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def preprocess(size_px: int, workers: int, dataset: Input[Dataset], tensors: Output[Dataset]):
    """Write float32 shards (N, 1, size_px, size_px) in [0, 1] and their index."""
    from pathlib import Path

    from hounsfield.imaging.contract import ImageContract
    from hounsfield.imaging.preprocess import preprocess as run

    contract = ImageContract(size_px=size_px)
    run(Path(dataset.path), Path(tensors.path), contract, workers=workers)
    tensors.metadata["contract_digest"] = contract.digest
