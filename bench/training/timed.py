"""One `fit` of one epoch, with the seconds of its steps and of one checkpoint, for `bench.training`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from hounsfield.training import checkpoint
from hounsfield.training.fit import Resuming, fit
from hounsfield.training.loop import Loop
from hounsfield.training.params import TrainingParams


def main(tensors: str, out: str, architecture: str, batch_size: str, parts: str, warm_up: str) -> None:
    ticks: list[float] = []
    step, end_epoch = Loop._train_step, Loop._end_epoch

    def timed_step(loop: Loop) -> None:
        if loop.step == int(warm_up):
            ticks.append(time.perf_counter())
        step(loop)

    def timed_end(loop: Loop, *rest: object) -> None:
        ticks.append(time.perf_counter())
        end_epoch(loop, *rest)
        if os.environ.get("RANK", "0") == "0":
            started_s = time.perf_counter()
            with tempfile.TemporaryDirectory() as scratch:
                checkpoint.save(f"{scratch}/last.ckpt", {}, loop.state(None))
            print(f"timed {ticks[1] - ticks[0]} {time.perf_counter() - started_s}", flush=True)

    Loop._train_step, Loop._end_epoch = timed_step, timed_end
    params = TrainingParams(
        architecture=architecture,
        epochs=1,
        batch_size=int(batch_size),
        batch_parts=int(parts),
        precision="fp32",
    )
    fit(Path(tensors), Path(out), params, resuming=Resuming(every_s=1e9))


if __name__ == "__main__":
    main(*sys.argv[1:])
