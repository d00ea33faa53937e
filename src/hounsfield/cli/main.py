"""`hounsfield`: one command for everything a person does by hand.

Each command parses its arguments, makes one library call and prints what came of it. Imports stand inside the
handlers, so that `hounsfield --help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hounsfield import __version__
from hounsfield.cli.access import add_commands as add_access_commands
from hounsfield.cli.ask import add_commands as add_ask_commands
from hounsfield.cli.audit import add_commands as add_audit_commands
from hounsfield.cli.backup import add_commands as add_backup_commands
from hounsfield.cli.data import add_commands as add_data_commands
from hounsfield.cli.manifests import add_commands as add_manifests_commands
from hounsfield.cli.outcomes import add_commands as add_outcomes_commands
from hounsfield.cli.rollout import add_commands as add_rollout_commands
from hounsfield.cli.training import add_commands as add_training_commands
from hounsfield.config import Home
from hounsfield.errors import HounsfieldError

INTERRUPTED = 130
CUT_SHORT = 141
"""As a shell tells of a program that SIGPIPE ended: 128 and 13."""


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["train"]:
        # Its own program under torchrun, a PyTorchJob and a TrainJob too: one set of arguments everywhere.
        from hounsfield.training.main import main as train

        return train(given[1:]) or 0
    arguments = _parser().parse_args(given)
    try:
        status = arguments.handler(arguments) or 0
        sys.stdout.flush()
        return status
    except HounsfieldError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # what reads our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CUT_SHORT


def _home(arguments: argparse.Namespace) -> Home:
    return Home.at(arguments.home)


def _up(arguments: argparse.Namespace) -> None:
    from hounsfield.laptop import stack

    _print_status(stack.up(_home(arguments), arguments.port, secure=arguments.secure))


def _apply(arguments: argparse.Namespace) -> None:
    from hounsfield.laptop import stack

    _print_status(stack.apply(_home(arguments)))


def _down(arguments: argparse.Namespace) -> None:
    from hounsfield.laptop import stack

    print("stopped" if stack.down(_home(arguments)) else "nothing was running")


def _status(arguments: argparse.Namespace) -> int:
    from hounsfield.laptop import stack

    status = stack.status(_home(arguments))
    _print_status(status)
    return 0 if status.running else 1


def _print_status(status) -> None:
    if not status.running:
        print("nothing is running; `make run` starts everything, `hounsfield up` what the tree holds")
        return
    print(f"endpoint  {status.endpoint}")
    if status.certificate:
        print(f"TLS       --ca-file {status.certificate}")
    if status.mlflow:
        print(f"MLflow    {status.mlflow}")
    for role, weight in status.weights.items():
        version = status.revisions.get(role)
        print(f"{role:<9} {weight:3d} %  {f'version {version}' if version else 'nothing deployed'}")
    for process in status.processes:
        print(
            f"{process.process:<9} {process.name.lower()}" + (f" (pid {process.pid})" if process.pid else "")
        )


def _sample(arguments: argparse.Namespace) -> None:
    from hounsfield.data.sample import make_sample

    print(make_sample(arguments.out, images=arguments.images, seed=arguments.seed, workers=arguments.workers))


def _locate(arguments: argparse.Namespace) -> int:
    from hounsfield.data.locate import locate

    found = locate(arguments.sha256, arguments.data)
    print(found if found is not None else "no file of the folder has this SHA-256")
    return 0 if found is not None else 1


def _report(arguments: argparse.Namespace) -> None:
    from hounsfield.report.run import write_report

    home = _home(arguments)
    print(write_report(json.loads((home.root / "run.json").read_text()), home.report))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hounsfield",
        description="Medical-imaging MLOps: what `make run` does in one go, piece by piece.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  hounsfield predict scan.dcm             ask the endpoint about a file\n"
        "  hounsfield status                       what is serving, and with which weights\n"
        "  hounsfield apply                        make the traffic follow .hounsfield/gitops\n"
        "  hounsfield train --help                 training, alone or under torchrun\n",
    )
    parser.add_argument("--version", action="version", version=f"hounsfield {__version__}")
    parser.add_argument(
        "--home",
        default=os.environ.get("HOUNSFIELD_HOME", ".hounsfield"),
        help="folder that holds what runs make (default: $HOUNSFIELD_HOME or .hounsfield)",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    add_ask_commands(commands, command=_command)
    up = _command(commands, "up", _up, "start the stack that the tree describes", "hounsfield up --port 9000")
    up.add_argument(
        "--port", type=int, help="the endpoint's port; the twelve after it are used too (default: 8080)"
    )
    up.add_argument(
        "--secure",
        action="store_true",
        help="from now on TLS, and a token or an API key of every caller: see `hounsfield access`",
    )
    _command(commands, "apply", _apply, "make the running stack follow the tree", "hounsfield apply")
    _command(commands, "down", _down, "stop the stack", "hounsfield down")
    _command(commands, "status", _status, "what is serving, and with which weights", "hounsfield status")

    data = commands.add_parser("data", help="the sample set, and files of a data set").add_subparsers(
        title="commands", required=True, metavar="COMMAND"
    )
    sample = _command(
        data,
        "sample",
        _sample,
        "write the simulated sample set",
        "hounsfield data sample --out sample --images 200",
    )
    sample.add_argument("--out", type=Path, required=True, help="folder to write into")
    sample.add_argument("--images", type=int, default=1100, help="how many radiographs (default: 1100)")
    sample.add_argument("--seed", type=int, default=7, help="same seed, same bytes (default: 7)")
    sample.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    locate = _command(
        data,
        "locate",
        _locate,
        "find a quarantined file again by its SHA-256",
        "hounsfield data locate 9f2c... --data scans",
    )
    locate.add_argument("sha256", help="from the column sha256 of quarantine.parquet or index.parquet")
    locate.add_argument("--data", type=Path, required=True, help="the folder that was ingested")

    add_data_commands(data, command=_command)

    access = commands.add_parser("access", help="who may ask the gateway: API keys and tokens")
    add_access_commands(
        access.add_subparsers(title="commands", required=True, metavar="COMMAND"), command=_command
    )
    audit = commands.add_parser("audit", help="the hash-chained logs: check, export, purge")
    add_audit_commands(
        audit.add_subparsers(title="commands", required=True, metavar="COMMAND"), command=_command
    )
    rollout = commands.add_parser("rollout", help="a rollout: watch, approve, verify and replay it")
    add_rollout_commands(
        rollout.add_subparsers(title="commands", required=True, metavar="COMMAND"), command=_command
    )

    backup = commands.add_parser("backup", help="logs, ledger and registry: kept elsewhere, and got back")
    add_backup_commands(
        backup.add_subparsers(title="commands", required=True, metavar="COMMAND"), command=_command
    )
    manifests = commands.add_parser("manifests", help="what the manifests say, checked without a cluster")
    add_manifests_commands(
        manifests.add_subparsers(title="commands", required=True, metavar="COMMAND"), command=_command
    )

    outcomes = commands.add_parser("outcomes", help="labels that came in days later")
    add_outcomes_commands(
        outcomes.add_subparsers(title="commands", required=True, metavar="COMMAND"), command=_command
    )

    _command(commands, "report", _report, "write the report of the last run again", "hounsfield report")
    commands.add_parser("train", help="train a model, alone or under torchrun", add_help=False)
    add_training_commands(commands, command=_command)
    return parser


def _command(commands, name: str, handler: Callable, help_text: str, example: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help_text, description=help_text, epilog=f"example: {example}")
    command.set_defaults(handler=handler)
    return command


if __name__ == "__main__":
    sys.exit(main())
