"""Step check-drift: what the drift worker has found, as Prometheus has it."""

from typing import NamedTuple

from kfp import dsl

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def check_drift(prometheus_url: str, model_name: str, always: bool) -> NamedTuple(
    "Outputs", [("retrain", bool), ("moment", str)]
):
    """Whether to train anew (drift, or `always`), and the moment of asking: it names the data of then."""
    import datetime
    from collections import namedtuple

    moment = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    retrain = always
    if not always:
        from hounsfield.drift.ask import ask_drift

        drift = ask_drift(prometheus_url, model_name)
        retrain = bool(drift.detectors)
        found = ", ".join(drift.detectors) or "no detector"
        print(f"{found} found drift in the last of {drift.windows} windows of {model_name}", flush=True)
    return namedtuple("Outputs", ["retrain", "moment"])(retrain, moment)
