"""`hounsfield access ...`: who may ask the laptop's gateway after `hounsfield up --secure`, who may what."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable
from pathlib import Path

from hounsfield.config import Home


def add_commands(commands, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the sub-commands to `commands`; `command` is what the main parser makes each of them with."""
    key = command(
        commands,
        "key",
        _key,
        "make an API key for a caller and print it, once; in force at once, in place of an earlier one",
        "hounsfield access key pacs > pacs.key",
    )
    key.add_argument("name", help="who will call: a program or a person, never a patient")

    token = command(
        commands,
        "token",
        _token,
        "make a token (JWT) for a caller and print it",
        "hounsfield access token anna --role operator --hours 8 > anna.token",
    )
    token.add_argument("name", help="who will call")
    token.add_argument(
        "--role", action="append", default=[], help="a role, such as operator; may be given again"
    )
    token.add_argument("--hours", type=float, default=8.0, help="for how long (default: 8)")

    revoke = command(
        commands, "revoke", _revoke, "take an API key back at once", "hounsfield access revoke pacs"
    )
    revoke.add_argument("name", help="whose key")

    explain = command(
        commands,
        "explain",
        _explain,
        "print what a role may do on a cluster, as the manifests have it",
        "hounsfield access explain clinician",
    )
    explain.add_argument("role", help="data-scientist, ml-engineer, clinician or auditor")
    explain.add_argument(
        "--overlay", type=Path, default=Path("manifests/overlays/production"), help="default: %(default)s"
    )

    command(commands, "list", _list, "print who has an API key", "hounsfield access list")


def _key(arguments: argparse.Namespace) -> None:
    from hounsfield.laptop.callers import make_api_key

    print(make_api_key(Home.at(arguments.home).access, arguments.name))


def _token(arguments: argparse.Namespace) -> None:
    from hounsfield.laptop.callers import make_token

    lifetime, now = datetime.timedelta(hours=arguments.hours), datetime.datetime.now(datetime.UTC)
    print(make_token(Home.at(arguments.home).access, arguments.name, arguments.role, lifetime, now))


def _explain(arguments: argparse.Namespace) -> None:
    from hounsfield.laptop.render import render
    from hounsfield.manifests.roles import explain

    print("\n".join(explain(render(arguments.overlay), arguments.role)))


def _revoke(arguments: argparse.Namespace) -> None:
    from hounsfield.laptop.callers import revoke_api_key

    revoke_api_key(Home.at(arguments.home).access, arguments.name)
    print(f"{arguments.name} has no API key any more")


def _list(arguments: argparse.Namespace) -> None:
    from hounsfield.laptop.callers import api_keys

    for name in sorted(api_keys(Home.at(arguments.home).access)):
        print(name)
