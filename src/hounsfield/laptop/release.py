"""From a registered candidate to a champion: deploy, gate, canary, promote.

The git tree says what is served and the registry says which version is champion; this module moves the one
and then the other, and can be killed between any two of its steps and started again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hounsfield.config import Home
from hounsfield.errors import RegistryError
from hounsfield.laptop import stack
from hounsfield.laptop.admitted import admission, read_rules
from hounsfield.laptop.callers import make_api_key
from hounsfield.laptop.ports import HOST, Ports
from hounsfield.laptop.processes import package_folder
from hounsfield.laptop.tls import write_private
from hounsfield.registry.registry import CHAMPION, Registry
from hounsfield.rollout import admission as gate_record
from hounsfield.rollout import approvals, manifest, repository, seed
from hounsfield.rollout.actuator import GitActuator, alone
from hounsfield.rollout.change_plan import ChangePlan
from hounsfield.rollout.controller import PROMOTED, Event, SystemClock, run_canary
from hounsfield.rollout.gate_client import Judged, request_verdict
from hounsfield.rollout.ledger import Ledger
from hounsfield.rollout.manifest import Revision
from hounsfield.rollout.notify import Notifier
from hounsfield.rollout.pairs import Pairs, WithPairs
from hounsfield.rollout.policy import Policy
from hounsfield.rollout.scrape import ScrapeProvider
from hounsfield.rollout.timeline import timeline

NOTHING = Revision(manifest.NOTHING, model_version="0", package_digest=manifest.NOTHING)


def release(
    home: Home,
    registration: Mapping[str, Mapping[str, Any]],
    validation_set: Path,
    *,
    port: int | None = None,
    say: Callable[[str], None] = print,
    on_event: Callable[[Event], None] = lambda event: None,
) -> dict[str, Any]:
    """Serve the champion, judge the candidate, and move the traffic to it by the tree's policy.

    Returns {"promoted": bool, "gate": dict | None, "rollout": dict | None, "no_rollout": why not,
    "endpoints": dict}. Raises PlatformError, GuardError, RegistryError or RolloutError; the stack then stays
    as it was before the step that failed.
    """
    candidate = _revision(registration["candidate"])
    registry = Registry(home.mlflow_uri)
    seed.seed_tree(stack.REPO / "manifests", home.tree)
    champion = registry.by_alias(CHAMPION)
    if champion is None:
        raise RegistryError(
            f"the registry {home.mlflow_uri} has no champion: run `make run`, which registers one"
        )
    with alone(home.tree), contextlib.ExitStack() as running:
        manifest.recover(home.tree)
        _serve_champion(home, _revision(dataclasses.asdict(champion)))
        running.enter_context(_stack(home, port, say))
        return _release(home, registry, candidate, validation_set, say, on_event)


@contextlib.contextmanager
def _stack(home: Home, port: int | None, say: Callable[[str], None]) -> Iterator[None]:
    """The stack, up. What this run started it also stops when it fails or is interrupted."""
    found_running = stack.status(home).running
    say("starting the stack: champion, gate, Envoy, MLflow")
    stack.up(home, port)
    try:
        yield
    except BaseException:
        if not found_running:
            stack.down(home)
        raise


def _release(
    home: Home,
    registry: Registry,
    candidate: Revision,
    validation_set: Path,
    say: Callable[[str], None],
    on_event: Callable[[Event], None],
) -> dict[str, Any]:
    result: dict[str, Any] = {"promoted": False, "gate": None, "rollout": None, "no_rollout": None}
    if manifest.revision(home.tree, "stable").package_digest == candidate.package_digest:
        _finish_promotion(home, registry, candidate, {})
        result["promoted"] = True
        result["no_rollout"] = f"version {candidate.model_version} is the champion already"
        return result | {"endpoints": endpoints(home)}

    if candidate.package_digest in Ledger(home.ledger).taken_back():
        version = candidate.model_version
        result["no_rollout"] = (
            f"version {version} was champion before, and labels took it back: train another"
        )
        return result | {"endpoints": endpoints(home)}

    _serve_candidate(home, candidate)
    policy, plan = read_rules(home)
    say(f"gate: replaying the validation set through version {candidate.model_version}")
    judged = ask_gate(home, policy, plan, validation_set, candidate)
    Ledger(home.ledger).record(gate_record.KIND, time.time(), entry=judged.entry, verdict=judged.verdict)
    result["gate"] = judged.verdict
    if not judged.passed:
        _withdraw(home, "the gate failed it")
        result["no_rollout"] = f"the gate refused it: {'; '.join(judged.reasons)}"
        return result | {"endpoints": endpoints(home)}

    ports = served_ports(home)
    provider = ScrapeProvider(
        {
            "stable": f"http://{HOST}:{ports.stable_http}/metrics",
            "canary": f"http://{HOST}:{ports.canary_http}/metrics",
        }
    )
    actuator = GitActuator(home.tree, lambda: stack.apply(home))
    if any(guardrail.name == "agreement" for guardrail in policy.guardrails):
        provider = WithPairs(provider, Pairs(home.root / "log", actuator.revisions()))
    ledger = Ledger(home.ledger)
    with stream(home, validation_set), Notifier(policy.notifications) as notify:
        rollout = run_canary(
            policy,
            provider,
            actuator,
            ledger,
            SystemClock(),
            lambda event: (on_event(event), notify(event)),
            admission=admission(home, policy, plan),
        ).as_dict()
        rollout["timeline"] = timeline(ledger.stories()[-1])
        if rollout["outcome"] == PROMOTED:
            _finish_promotion(home, registry, candidate, (rollout["steps"] or [{}])[-1])
            result["promoted"] = True
    result["rollout"] = rollout
    return result | {"endpoints": endpoints(home)}


def ask_gate(
    home: Home, policy: Policy, plan: ChangePlan, validation_set: Path, candidate: Revision
) -> Judged:
    """The Seldon gate's verdict on the canary revision, asked past the traffic split."""
    ports = served_ports(home)
    return request_verdict(
        f"http://{HOST}:{ports.gate}",
        candidate_url=f"http://{HOST}:{ports.canary_http}",
        candidate_version=candidate.model_version,
        package_digest=candidate.package_digest,
        package_dir=package_folder(candidate.storage_uri, "the candidate"),
        champion_url=f"http://{HOST}:{ports.stable_http}",
        validation_dir=validation_set,
        policy=policy.gate,
        plan=plan,
    )


@contextlib.contextmanager
def stream(home: Home, folder: Path, clients: int = 4) -> Iterator[None]:
    """Replay the DICOM files of `folder` through the gateway in a process of its own, until left.

    Where the gateway asks who calls, it calls as `release`, with an API key of its own.
    """
    status = stack.status(home)
    command = [sys.executable, "-m", "hounsfield.cli.main", "stream", "--url", status.endpoint]
    command += ["--folder", str(folder)]
    if status.certificate:
        key = home.access / "release.key"
        write_private(key, make_api_key(home.access, "release").encode())
        command += ["--ca-file", status.certificate, "--token-file", str(key)]
    process = subprocess.Popen(
        [*command, "--clients", str(clients), "--seconds", "900"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def served_ports(home: Home) -> Ports:
    """The ports of the stack that runs under `home`."""
    return Ports(int(stack.status(home).endpoint.rsplit(":", 1)[1]))


def endpoints(home: Home) -> dict[str, str]:
    """Where a person finds what runs."""
    status = stack.status(home)
    return {
        "endpoint": status.endpoint,
        "MLflow": status.mlflow,
        "tree": str(home.tree),
        "ledger": str(home.ledger),
        "report": str(home.report),
    }


def _revision(found: Mapping[str, Any]) -> Revision:
    return Revision(found["source"], str(found["version"]), found["digest"])


def _set(
    home: Home, role: str, revision: Revision, message: str, verdict: Mapping[str, Any] | None = None
) -> None:
    if manifest.revision(home.tree, role) == revision:
        return
    manifest.set_revision(
        home.tree,
        role,
        storage_uri=revision.storage_uri,
        model_version=revision.model_version,
        package_digest=revision.package_digest,
    )
    _commit(home, message, role=role, package_digest=revision.package_digest, verdict=verdict)


def _commit(home: Home, message: str, **evidence: Any) -> None:
    """Commit the tree; the ledger's head in it shows when records are cut off the end of a rollout."""
    repository.commit(home.tree, message, {**evidence, "ledger": Ledger(home.ledger).head()})


def _serve_champion(home: Home, champion: Revision) -> None:
    """Give a new tree its stable revision. A tree that has one is the truth and stays as it is."""
    if manifest.revision(home.tree, "stable").storage_uri == NOTHING.storage_uri:
        _set(home, "stable", champion, f"Serve version {champion.model_version} as stable")


def _serve_candidate(home: Home, candidate: Revision) -> None:
    """Start the candidate with no traffic; one that is in the middle of its canary keeps its weight."""
    if manifest.revision(home.tree, "canary").package_digest != candidate.package_digest:
        _withdraw(home, "a newer candidate takes its place")
        _set(home, "canary", candidate, f"Deploy version {candidate.model_version} as canary, no traffic yet")
    stack.apply(home)


def _withdraw(home: Home, why: str) -> None:
    if manifest.weights(home.tree) != (100, 0):
        manifest.set_weights(home.tree, 100, 0)
        _commit(home, f"Canary at 0 %: {why}")
    _set(home, "canary", NOTHING, f"Remove the canary: {why}")
    stack.apply(home)


def _require_approvals(home: Home, candidate: Revision) -> None:
    """As many signed approvals as the policy asks of a promotion, in the rollout that led to it."""
    policy, ledger = read_rules(home)[0], Ledger(home.ledger)
    begun = [s.started_at for s in ledger.stories() if s.revisions["canary"] == candidate.package_digest]
    since = begun[-1] if begun else 0.0
    approvals.require_promotion(ledger.entries(approvals.KIND), policy, candidate.package_digest, since)


def _finish_promotion(
    home: Home, registry: Registry, candidate: Revision, verdict: Mapping[str, Any]
) -> None:
    """Make the candidate stable while the canary has all traffic, then hand the traffic back to stable."""
    version, champion = candidate.model_version, registry.by_alias(CHAMPION)
    is_new = champion is None or champion.version != int(version)
    if is_new:
        _require_approvals(home, candidate)
    _set(home, "stable", candidate, f"Promote version {version} to stable", verdict)
    stack.apply(home)
    if manifest.weights(home.tree) != (100, 0):
        manifest.set_weights(home.tree, 100, 0)
        _commit(home, f"Stable (version {version}) takes the traffic back")
        stack.apply(home)
    _set(home, "canary", NOTHING, "Remove the canary: it is stable now")
    stack.apply(home)
    if is_new:
        registry.set_alias(CHAMPION, int(version))
        if champion is not None:
            registry.set_alias("previous", champion.version)
