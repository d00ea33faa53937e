"""Step tune: the Katib Experiment, run by Optuna on the laptop."""

from kfp import dsl
from kfp.dsl import Dataset, Input

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def tune(experiment: str, trials: int, parameters: dict, processes: int, tensors: Input[Dataset]) -> dict:
    """Return `parameters` with the best ones found in them; with 0 trials, `parameters` as they are."""
    if trials == 0:
        print("tuning is off (trials=0): the given parameters are used")
        return parameters

    import tempfile
    from pathlib import Path

    from hounsfield.training.tuning import tune as run

    with tempfile.TemporaryDirectory() as scratch:
        best = run(
            Path(experiment),
            Path(tensors.path),
            Path(scratch),
            max_trials=trials,
            processes=processes,
            fixed=parameters,
        )
    return {**parameters, **best}
