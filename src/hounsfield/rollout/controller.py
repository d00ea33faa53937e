"""The loop of a canary: look, decide, record, move. Tree and ledger hold all of its state."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from hounsfield.errors import RolloutError
from hounsfield.rollout.actuator import Actuator
from hounsfield.rollout.decide import Decision, Verdict, decide
from hounsfield.rollout.evidence import Evidence, MetricsProvider, Snapshot, Window, between
from hounsfield.rollout.ledger import Ledger
from hounsfield.rollout.policy import Policy

PROMOTED, ROLLED_BACK, HELD = "promoted", "rolled_back", "held"


class Clock(Protocol):
    def now(self) -> float:
        """Unix time in seconds."""

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True)
class Step:
    """One weight of the canary: the decision that ended it, and the commit that had set it."""

    weight: int
    decision: str
    reasons: tuple[str, ...]
    numbers: dict[str, float | int | None]
    requests: int
    commit: str
    at: float


@dataclass(frozen=True)
class Event:
    """What is told while it happens, by the kinds of the ledger's records; `weight` is the canary's."""

    kind: str
    at: float
    weight: int
    message: str
    verdict: Verdict | None = None


@dataclass(frozen=True)
class RolloutResult:
    """`outcome`: promoted (canary at 100 %), rolled_back (at 0 %) or held (someone else took over)."""

    outcome: str
    reason: str
    steps: tuple[Step, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "reason": self.reason,
            "steps": [{**asdict(step), "reasons": list(step.reasons)} for step in self.steps],
        }


def run_canary(
    policy: Policy,
    provider: MetricsProvider,
    actuator: Actuator,
    ledger: Ledger,
    clock: Clock,
    on_event: Callable[[Event], None] = lambda event: None,
) -> RolloutResult:
    """Take the canary through the policy's steps until it is promoted, rolled back, or someone else steps in.

    Starts from the tree's present weight, so a controller that was stopped goes on with the step that it was
    in, and gathers that step's evidence anew. Raises RolloutError when that weight is not one of the
    policy's.
    """
    return _Canary(policy, provider, actuator, ledger, clock, on_event).run()


class _SomeoneElseError(Exception):
    """A person changed the tree: the rollout stops where it is."""


@dataclass
class _Canary:
    policy: Policy
    provider: MetricsProvider
    actuator: Actuator
    ledger: Ledger
    clock: Clock
    on_event: Callable[[Event], None]

    def run(self) -> RolloutResult:
        self.readings = _Readings(self.provider)
        self.steps: list[Step] = []
        self.weight = self.actuator.weights()[1]
        if self.weight not in (0, *self.policy.steps):
            raise RolloutError(
                f"the canary has {self.weight} % of the requests, which is no step of the policy "
                f"({', '.join(map(str, self.policy.steps))}); set it to one of them, or to 0"
            )
        self.started_at = self.clock.now()
        self._tell(
            "rollout_started",
            f"from {self.weight} %",
            started_at=self.started_at,
            policy=self.policy.as_dict(),
            policy_digest=self.policy.digest,
            commit=self.actuator.head(),
        )
        try:
            outcome, reason = self._walk()
        except _SomeoneElseError as edit:
            outcome, reason = HELD, str(edit)
        self._tell("rollout_ended", f"{outcome}: {reason}", outcome=outcome, reason=reason)
        return RolloutResult(outcome, reason, tuple(self.steps))

    def _walk(self) -> tuple[str, str]:
        self.readings.begin(self.clock.now(), resumed=self.weight > 0)
        verdict: Verdict | None = None
        for step in [step for step in self.policy.steps if step >= self.weight]:
            if step != self.weight:
                self._move(step, verdict)
            self.readings.begin_step(self.clock.now())
            verdict = self._decide_step()
            if verdict.decision is Decision.ROLLBACK:
                self._move(0, verdict)
                return ROLLED_BACK, "; ".join(verdict.reasons)
        return PROMOTED, "every step of the policy was passed"

    def _decide_step(self) -> Verdict:
        """Look at the present weight until it is decided: PROMOTE or ROLLBACK."""
        commit, failures = self.actuator.head(), 0
        while True:
            self.clock.sleep(self.policy.interval_s)
            self._check_alone()
            now = self.clock.now()
            stable, canary = self.readings.look(now)
            verdict = decide(Evidence(stable, canary, self.started_at), self.policy, now)
            if verdict.decision is Decision.HOLD and verdict.breaches:
                failures += 1
                if failures > self.policy.failures_allowed:
                    beyond = f"{failures} checks of this step failed, now on {', '.join(verdict.breaches)}"
                    verdict = replace(verdict, decision=Decision.ROLLBACK, reasons=(beyond, *verdict.reasons))
            self._tell(
                "verdict",
                f"{verdict.decision}: {'; '.join(verdict.reasons)}",
                verdict,
                **_plain(verdict),
                commit=commit,
                failures=failures,
                stable=_counters(stable),
                canary=_counters(canary),
            )
            if verdict.decision is not Decision.HOLD:
                decided = str(verdict.decision), verdict.reasons, verdict.numbers
                requests = 0 if canary is None else canary.requests
                self.steps.append(Step(self.weight, *decided, requests, commit, now))
                return verdict

    def _move(self, weight: int, verdict: Verdict | None) -> None:
        """Give the canary `weight` percent; `verdict` is the one that led there, None for the first step."""
        self._check_alone()
        evidence = {
            "weights": {"stable": 100 - weight, "canary": weight},
            "policy_digest": self.policy.digest,
            "verdict": None if verdict is None else _plain(verdict),
            "ledger": self.ledger_head,  # anchors the log: cutting records off its end shows
        }
        commit = self.actuator.set_weights(100 - weight, weight, evidence)
        self.weight = weight
        self._tell("weights_set", f"canary at {weight} %", commit=commit)

    def _check_alone(self) -> None:
        edit = self.actuator.foreign_edit()
        if edit is not None:
            raise _SomeoneElseError(edit)

    def _tell(self, kind: str, message: str, verdict: Verdict | None = None, **fields: Any) -> None:
        at = self.clock.now()
        self.ledger_head = self.ledger.record(kind, at, weight=self.weight, **fields)
        self.on_event(Event(kind, at, self.weight, message, verdict))


class _Readings:
    """Keeps the snapshots that the windows begin at.

    The canary is judged on the present step alone. The stable revision is judged on the whole rollout,
    because at the last step it gets no requests at all.
    """

    def __init__(self, provider: MetricsProvider) -> None:
        self._provider = provider
        self._stable: Snapshot | None = None
        self._canary: Snapshot | None = None

    def begin(self, now: float, resumed: bool) -> None:
        # A rollout that goes on may be at a step where stable gets nothing: its whole life is then the
        # comparison.
        stable = self._provider.read(now)["stable"]
        self._stable = Snapshot(at=now) if resumed and stable is not None else stable

    def begin_step(self, now: float) -> None:
        self._canary = self._provider.read(now)["canary"]

    def look(self, now: float) -> tuple[Window | None, Window | None]:
        """The windows up to now; after an outage or a restart a window is None once and begins anew."""
        read = self._provider.read(now)
        stable, canary = between(self._stable, read["stable"]), between(self._canary, read["canary"])
        if stable is None and read["stable"] is not None:
            self._stable = read["stable"]
        if canary is None and read["canary"] is not None:
            self._canary = read["canary"]
        return stable, canary


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {
        "decision": str(verdict.decision),
        "reasons": list(verdict.reasons),
        "numbers": verdict.numbers,
        "breaches": list(verdict.breaches),
    }


def _counters(window: Window | None) -> dict[str, Any] | None:
    """What a verdict can be recomputed from: the +Inf bound is written as text, JSON has no infinity."""
    if window is None:
        return None
    return {**asdict(window), "latency": [[str(bound), count] for bound, count in window.latency]}
