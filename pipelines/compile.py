"""Compile the pipelines to packages that the Kubeflow dashboard takes as they are."""

import argparse
from pathlib import Path

from kfp import compiler

from pipelines.training import training


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
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{training.name}.yaml"
    compiler.Compiler().compile(training, str(target))
    print(target)


if __name__ == "__main__":
    main()
