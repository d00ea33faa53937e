"""Run a job to its end: made, followed, deleted on success, kept on failure."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from hounsfield.cluster.connection import Connection
from hounsfield.cluster.follow import follow
from hounsfield.cluster.jobs import KINDS, create
from hounsfield.cluster.settings import JobSettings
from hounsfield.cluster.watching import Clock, JobFailed, JobStuck, Limits, delete, patch


def new_name(settings: JobSettings, prefix: str) -> str:
    """The name asked for, else a new one: a DNS label that leaves room for what controllers add."""
    return settings.name or f"{prefix}-{secrets.token_hex(4)}"


def limits_of(settings: JobSettings) -> Limits:
    return Limits(settings.deadline_s, settings.start_timeout_s, settings.lost_after_s)


def run_job(
    connection: Connection,
    launcher: str,
    name: str,
    settings: JobSettings,
    image: str,
    arguments: Sequence[str],
    on_line: Callable[[str], None],
    clock: Clock | None = None,
    limits: Limits | None = None,
) -> None:
    """Run `hounsfield train` with `arguments` as the job `name`; its log goes to `on_line`.

    On success the job is deleted. A failed one is kept, and suspended where it would run on, so that it
    holds no machine. Interrupted (Ctrl-C, SIGTERM of the step), it is deleted. Raises ClusterError,
    JobFailed (a TrainingError) with the reason, and ConfigError for settings that the launcher cannot
    honour.
    """
    kind = KINDS[launcher]
    create(connection, kind, name, settings, image, arguments)
    on_line(f"{kind.name} {name} in namespace {connection.namespace} is made")
    try:
        follow(connection, kind, name, limits or limits_of(settings), on_line, clock)
    except JobFailed as error:
        if isinstance(error, JobStuck):
            patch(connection, kind, name, kind.suspend, "suspended")
        raise type(error)(
            f"{error}; it is kept: kubectl describe {kind.plural} {name} -n {connection.namespace}"
        ) from None
    except KeyboardInterrupt:
        delete(connection, kind, name)
        raise
    delete(connection, kind, name)
