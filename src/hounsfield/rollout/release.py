"""A rollout on a cluster, to its end: when the canary has all traffic, stable takes its package over.

The tree is a clone of the repository that ArgoCD watches; every move is a commit that is pushed. It can be
killed between any two of them and started again.
"""

from __future__ import annotations

from collections.abc import Callable

from hounsfield.errors import RolloutError
from hounsfield.rollout.actuator import GitActuator
from hounsfield.rollout.admission import Admission
from hounsfield.rollout.controller import PROMOTED, Clock, Event, RolloutResult, run_canary
from hounsfield.rollout.evidence import MetricsProvider
from hounsfield.rollout.ledger import Ledger
from hounsfield.rollout.policy import Policy

POLL_S = 5.0


def release(
    policy: Policy,
    provider: MetricsProvider,
    actuator: GitActuator,
    ledger: Ledger,
    clock: Clock,
    on_event: Callable[[Event], None] = lambda event: None,
    *,
    admission: Admission,
    takeover_timeout_s: float = 1800.0,
) -> RolloutResult:
    """Run the canary, and after a promotion make its package stable and hand the traffic back.

    Raises RolloutError as `run_canary` does, and when stable does not serve the package in time: the canary
    then keeps all traffic, and the same call goes on.
    """
    digests = actuator.revisions()
    if digests["canary"] in ledger.taken_back():
        raise RolloutError(f"labels took the package {digests['canary'][:12]} back before: train another")
    if digests["stable"] == digests["canary"]:
        result = RolloutResult(PROMOTED, "stable serves the package already", ())
    else:
        result = run_canary(policy, provider, actuator, ledger, clock, on_event, admission=admission)
    if result.outcome == PROMOTED:
        _hand_over(provider, actuator, ledger, clock, takeover_timeout_s)
    return result


def _hand_over(
    provider: MetricsProvider, actuator: GitActuator, ledger: Ledger, clock: Clock, timeout_s: float
) -> None:
    version = actuator.make_stable()
    if actuator.weights() == (100, 0):
        return
    deadline_s = clock.now() + timeout_s
    while not _serves(provider, clock.now(), version):
        if clock.now() > deadline_s:
            raise RolloutError(
                f"stable does not serve version {version} after {timeout_s:g} s, so the canary keeps the "
                "traffic; see why, then run this again"
            )
        clock.sleep(POLL_S)
    # The ledger's head: records that are cut off the rollout's end show.
    evidence = {"role": "stable", "model_version": version, "ledger": ledger.head()}
    actuator.set_weights(100, 0, evidence)


def _serves(provider: MetricsProvider, now: float, version: str) -> bool:
    """Whether every pod of stable that gives metrics answers as `version`."""
    found = provider.read(now)["stable"]
    return found is not None and found.model_versions == (version,)
