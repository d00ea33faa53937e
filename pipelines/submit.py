"""Start a pipeline on Kubeflow Pipelines, once or at certain times, and wait for it.

`make submit HOST=https://kubeflow.example PARAMS=params.yaml` calls this. The parameters are those of the
pipeline; what it has no default for must be in PARAMS or in a --param. Credentials are read from KFP_TOKEN (a
bearer token) or KFP_COOKIE (what a browser sends after the login).
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from hounsfield.cluster.pipeline_runs import Credentials, open_client, schedule, submit, wait
from hounsfield.errors import ConfigError, HounsfieldError
from pipelines.compile import PIPELINES, compile_package

REPO = Path(__file__).resolve().parents[1]
RUN_FAILED, INTERRUPTED = 1, 130


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        return run(options)
    except HounsfieldError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("no longer waiting; the run goes on", file=sys.stderr)
        return INTERRUPTED


def run(options: argparse.Namespace) -> int:
    """Compile, submit, wait; return 0, or 1 when the run failed. Raises HounsfieldError."""
    pipeline = PIPELINES[options.pipeline]
    values = arguments(pipeline, options.params, dict(options.param))
    credentials = Credentials(os.environ.get("KFP_TOKEN"), os.environ.get("KFP_COOKIE"), options.ca_file)
    client = open_client(options.host, options.namespace, credentials)
    name = options.name or f"{pipeline.name} {_now():%Y-%m-%d %H:%M}"
    common = (options.experiment, name)
    more = (options.namespace, not options.no_cache, options.service_account)
    with tempfile.TemporaryDirectory() as scratch:
        package = compile_package(pipeline, Path(scratch))
        if options.cron:
            _, page = schedule(client, options.host, package, values, *common, options.cron, *more)
            print(f"{name} runs at {options.cron}: {page}")
            return 0
        run_id, page = submit(client, options.host, package, values, *common, *more)
    print(f"{name}: {page}", flush=True)
    if options.no_wait:
        return 0
    result = wait(client, options.host, run_id, timeout_s=options.timeout_s)
    print(f"run {run_id} {result.state.lower()}" + (f": {result.failure}" if result.failure else ""))
    return 0 if result.failure is None else RUN_FAILED


def arguments(pipeline: Any, file: Path | None, given: dict[str, Any]) -> dict[str, Any]:
    """Parameters of `pipeline` from `file` and `given`; commit and moment where they are asked for.

    Raises ConfigError that names a parameter that there is not, or that is missing.
    """
    known = pipeline.component_spec.inputs or {}
    values = {**_read(file), **given}
    for name in sorted(set(values) - set(known)):
        raise ConfigError(f"{pipeline.name} has no parameter {name!r}; it has {', '.join(known)}")
    own = {"git_commit": _git_commit(), "source_fingerprint": f"{_now():%Y-%m-%dT%H:%M:%SZ}"}
    values = {name: value for name, value in own.items() if name in known} | values
    missing = [name for name, spec in known.items() if not spec.optional and name not in values]
    if missing:
        raise ConfigError(
            f"{pipeline.name} needs {', '.join(missing)}: put them into a file and name it PARAMS"
        )
    return values


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        values = YAML(typ="safe").load(file)
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist; it is to hold the pipeline's parameters") from None
    except YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file} does not hold parameters as NAME: VALUE")
    return values


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.submit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m pipelines.submit --host https://kubeflow.example/pipeline --params params.yaml\n"
        "  python -m pipelines.submit --host localhost:8888 --pipeline retraining --cron '0 0 3 * * *' "
        "--params params.yaml\n"
        "\n"
        "exit status: 0 succeeded or submitted, 1 the run failed, 2 something has to be put right",
    )
    parser.add_argument("--host", required=True, help="address of Kubeflow Pipelines")
    parser.add_argument("--pipeline", choices=list(PIPELINES), default="training", help="default: training")
    parser.add_argument("--params", type=Path, help="YAML file of the pipeline's parameters")
    parser.add_argument("--param", type=_key_value, action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--namespace", default="", help="your team's, on a multi-user installation")
    parser.add_argument("--experiment", default="hounsfield", help="folder of runs (default: hounsfield)")
    parser.add_argument("--name", help="name of the run (default: the pipeline and the time)")
    parser.add_argument("--cron", help="six fields, seconds first: run it at these times instead of now")
    parser.add_argument("--no-cache", action="store_true", help="do every step again")
    parser.add_argument("--no-wait", action="store_true", help="return when the run has been started")
    parser.add_argument("--timeout-s", type=float, default=24 * 3600, help="longest wait (default: a day)")
    parser.add_argument("--service-account", help="that the steps run as")
    parser.add_argument("--ca-file", help="certificate of the CA that signed the host's")
    return parser


def _key_value(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, YAML(typ="safe").load(value)


def _git_commit() -> str:
    done = subprocess.run(
        ["git", "-C", str(REPO), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


if __name__ == "__main__":
    sys.exit(main())
