"""Look at an object until it is done: what drops, is gone (410), or is away for a while loses nothing.

The object is read anew in each round; a watch only says when to look.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import urllib3
from kubernetes import client, watch

from hounsfield.cluster.connection import REQUEST_TIMEOUT_S, Connection, explain, is_lost, status_of
from hounsfield.errors import ClusterError, TrainingError

T = TypeVar("T")


class Kind(Protocol):
    """A custom kind: what it is called, and where the API keeps it."""

    name: str
    group: str
    version: str
    plural: str


@dataclass(frozen=True)
class Limits:
    """Seconds: for all of it, with nothing running, without the API server, between two looks."""

    deadline_s: float
    start_timeout_s: float
    lost_after_s: float
    look_every_s: float = 10.0


@dataclass(frozen=True)
class Clock:
    """Time and how it passes; tests bring their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep


class JobFailed(TrainingError):
    """It ended in failure, and is kept for a person to look at."""


class JobStuck(JobFailed):
    """It has not started or not ended in time, and holds or will hold machines if nobody stops it."""


def where(connection: Connection, kind: Kind, name: str) -> str:
    return f"{kind.name} {name!r} in namespace {connection.namespace!r}"


def looks(
    connection: Connection, kind: Kind, name: str, limits: Limits, clock: Clock, more: Callable[[], T]
) -> Iterator[tuple[dict[str, Any], T, float]]:
    """The object, what `more` reads beside it, and the time: at each change, and every `look_every_s` anyway.

    Raises JobStuck after `deadline_s`; ClusterError when the object was deleted, the API server refuses, or
    is away for longer than `lost_after_s`.
    """
    custom = connection.custom()
    began = answered = clock.now()
    while True:
        try:
            item = custom.get_namespaced_custom_object(
                kind.group,
                kind.version,
                connection.namespace,
                kind.plural,
                name,
                _request_timeout=REQUEST_TIMEOUT_S,
            )
            beside = more()
        except (client.ApiException, urllib3.exceptions.HTTPError) as error:
            if status_of(error) == 404:
                raise ClusterError(
                    f"{where(connection, kind, name)} was deleted while it ran; the next start "
                    "goes on from the last checkpoint"
                ) from None
            if not is_lost(error):
                raise explain(error, connection, "read", kind.name, name) from None
            if clock.now() - answered > limits.lost_after_s:
                raise ClusterError(
                    f"the Kubernetes API at {connection.configuration.host} has not answered for "
                    f"{limits.lost_after_s:g} s; {where(connection, kind, name)} may still run"
                ) from None
            clock.sleep(min(5.0, limits.look_every_s))
            continue
        answered = clock.now()
        yield item, beside, answered
        if answered - began > limits.deadline_s:
            raise JobStuck(
                f"{where(connection, kind, name)} has not ended within {limits.deadline_s:g} s (deadline_s)"
            )
        _wait_for_change(custom, connection, kind, item, limits.look_every_s)
        clock.sleep(min(1.0, limits.look_every_s))  # changes come in bursts, and a watch may end at once


def _wait_for_change(
    custom: client.CustomObjectsApi,
    connection: Connection,
    kind: Kind,
    item: Mapping[str, Any],
    most_s: float,
) -> None:
    """Return when the object changes, and after about `most_s` anyway: pods change without it."""
    with contextlib.suppress(client.ApiException, urllib3.exceptions.HTTPError, ValueError, KeyError):
        for _ in watch.Watch().stream(
            custom.list_namespaced_custom_object,
            kind.group,
            kind.version,
            connection.namespace,
            kind.plural,
            field_selector=f"metadata.name={item['metadata']['name']}",
            resource_version=item["metadata"].get("resourceVersion"),
            timeout_seconds=max(1, round(most_s)),
            _request_timeout=(REQUEST_TIMEOUT_S, most_s + REQUEST_TIMEOUT_S),
        ):
            return


def delete(connection: Connection, kind: Kind, name: str) -> None:
    """Delete the object with what it made. Said, and no error, when that cannot be done."""
    with _said("deleted", kind, name):
        connection.custom().delete_namespaced_custom_object(
            kind.group,
            kind.version,
            connection.namespace,
            kind.plural,
            name,
            propagation_policy="Background",
            _request_timeout=REQUEST_TIMEOUT_S,
        )


def patch(connection: Connection, kind: Kind, name: str, change: Mapping[str, Any], done: str) -> None:
    """Change the object. Said, and no error, when that cannot be done."""
    with _said(done, kind, name):
        connection.custom().patch_namespaced_custom_object(
            kind.group,
            kind.version,
            connection.namespace,
            kind.plural,
            name,
            dict(change),
            _request_timeout=REQUEST_TIMEOUT_S,
        )


@contextlib.contextmanager
def _said(done: str, kind: Kind, name: str) -> Iterator[None]:
    """What is left over changes nothing about how the job ended: say so, and go on."""
    try:
        yield
    except (client.ApiException, urllib3.exceptions.HTTPError) as error:
        if status_of(error) != 404:
            print(
                f"{kind.name} {name} could not be {done} ({status_of(error) or 'no answer'}): do it by hand",
                flush=True,
            )
