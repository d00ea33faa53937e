"""Compile the pipelines to packages that the Kubeflow dashboard takes as they are."""

import argparse
from pathlib import Path

from kfp import compiler
from kfp.dsl.base_component import BaseComponent

from pipelines.retraining import retraining
from pipelines.training import training

PIPELINES = {"training": training, "retraining": retraining}


def compile_package(pipeline: BaseComponent, out: Path) -> Path:
    """Write the package of `pipeline` into the folder `out`; return its path."""
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{pipeline.name}.yaml"
    compiler.Compiler().compile(pipeline, str(target))
    return target


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.compile",
        description=__doc__,
        epilog="Example: python -m pipelines.compile --out build, then upload build/hounsfield-training.yaml "
        "in the dashboard under Pipelines.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build"), help="folder to write into (default: build)"
    )
    out = parser.parse_args().out
    for pipeline in PIPELINES.values():
        print(compile_package(pipeline, out))


if __name__ == "__main__":
    main()
