"""The loop of a rollout: look, decide, record, move. Tree and ledger hold all of its state."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from hounsfield.errors import RolloutError
from hounsfield.rollout import decide
from hounsfield.rollout.actuator import Actuator
from hounsfield.rollout.decide import Decision, Verdict
from hounsfield.rollout.evidence import MetricsProvider, Watch
from hounsfield.rollout.ledger import Ledger, Story
from hounsfield.rollout.policy import Policy, Step

PROMOTED, ROLLED_BACK, HELD, SHADOWED = "promoted", "rolled_back", "held", "shadowed"


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
class StepResult:
    """One weight of the canary: the decision that ended it, and the commit that had set it."""

    weight: int
    shadow: bool
    decision: str
    reasons: tuple[str, ...]
    numbers: dict[str, float | int]
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
    """`outcome`: promoted (canary at 100 %), rolled_back (at 0 %), shadowed (passed, by a policy that stops
    there) or held (someone else took over)."""

    outcome: str
    reason: str
    steps: tuple[StepResult, ...]

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

    Starts from the tree's present weight. A rollout of the same policy and revisions that the ledger has no
    end of is gone on with, evidence and all: starting over would spend the policy's alphas a second time.
    Raises RolloutError when the weight is not one of the policy's.
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
        self.steps: list[StepResult] = []
        self.weight, self.shadow = self.actuator.weights()[1], self.actuator.shadow() > 0
        weights = [step.weight for step in self.policy.steps]
        if self.weight not in (0, *weights):
            raise RolloutError(
                f"the canary has {self.weight} % of the requests, which is no step of the policy "
                f"({', '.join(map(str, weights))}); set it to one of them, or to 0"
            )
        revisions = self.actuator.revisions()
        story = self.ledger.unfinished(self.policy.digest, revisions)
        self.state = decide.begin(self.policy, story.started_at if story else self.clock.now())
        for observation in story.observations if story else ():
            self.state = decide.observe(self.state, observation)
        self._tell(
            "rollout_started",
            f"from {self.weight} %" + (", going on with what the ledger holds" if story else ""),
            started_at=self.state.started_at,
            goes_on=story is not None,
            policy=self.policy.as_dict(),
            policy_digest=self.policy.digest,
            revisions=revisions,
            commit=self.actuator.head(),
        )
        try:
            outcome, reason = self._walk(story)
        except _SomeoneElseError as edit:
            outcome, reason = HELD, str(edit)
        self._tell("rollout_ended", f"{outcome}: {reason}", outcome=outcome, reason=reason)
        return RolloutResult(outcome, reason, tuple(self.steps))

    def _walk(self, story: Story | None) -> tuple[str, str]:
        self.watch = Watch(self.provider)
        self.watch.look(self.clock.now(), self.weight, self.shadow)
        last = story.verdicts[-1] if story and story.verdicts else None
        # A verdict that was recorded and not carried out is not asked for again.
        decided = None if last is None else Decision(last["verdict"]["decision"])
        verdict = None if decided is None else decide.judge(self.state)
        if decided is Decision.ROLLBACK:
            return self._roll_back(verdict)
        for step in self._steps_ahead():
            is_here = (step.weight, step is self.policy.shadow) == (self.weight, self.shadow)
            if not is_here:
                self._move(step.weight, verdict, shadow=step is self.policy.shadow)
            elif decided is Decision.PROMOTE and (last["weight"], last["shadow"]) == (
                self.weight,
                self.shadow,
            ):
                continue
            verdict = self._decide_step(step)
            if verdict.decision is Decision.ROLLBACK:
                return self._roll_back(verdict)
        if self.policy.strategy == "shadow":
            if self.shadow:
                self._move(0, verdict)
            return SHADOWED, "the mirrored requests showed every guardrail to be within its margin"
        return PROMOTED, "every step of the policy was passed"

    def _steps_ahead(self) -> list[Step]:
        """From the present one, or the first."""
        steps = [] if self.policy.strategy == "shadow" else list(self.policy.steps)
        steps = [step for step in steps if step.weight >= self.weight]
        if self.policy.shadow is not None and self.weight == 0:
            steps.insert(0, self.policy.shadow)
        return steps

    def _roll_back(self, verdict: Verdict) -> tuple[str, str]:
        if self.weight or self.shadow:
            self._move(0, verdict)
        return ROLLED_BACK, "; ".join(verdict.reasons)

    def _decide_step(self, step: Step) -> Verdict:
        """Look at the present step until it is decided: PROMOTE or ROLLBACK."""
        commit, asked = self.actuator.head(), False
        while True:
            self.clock.sleep(self.policy.interval_s)
            self._check_alone()
            now = self.clock.now()
            approved_by = self.ledger.approvals(self.state.started_at, step.weight) if step.approval else ()
            observation = self.watch.look(now, self.weight, self.shadow, approved_by)
            self.state = decide.observe(self.state, observation)
            verdict = decide.judge(self.state)
            self._tell(
                "verdict",
                f"{verdict.decision}: {'; '.join(verdict.reasons)}",
                verdict,
                verdict=verdict.as_dict(),
                observation=observation.as_dict(),
                commit=commit,
            )
            if decide.waits_for_a_person(verdict) and not asked:
                asked = True
                self.on_event(Event("approval_wanted", now, self.weight, verdict.reasons[0], verdict))
            if verdict.decision is not Decision.HOLD:
                self.steps.append(
                    StepResult(
                        weight=self.weight,
                        shadow=self.shadow,
                        decision=str(verdict.decision),
                        reasons=verdict.reasons,
                        numbers=verdict.numbers,
                        requests=int(verdict.numbers["canary_requests"]),
                        commit=commit,
                        at=now,
                    )
                )
                return verdict

    def _move(self, weight: int, verdict: Verdict | None, shadow: bool = False) -> None:
        """Give the canary `weight` percent; `verdict` is the one that led there, None for the first step."""
        self._check_alone()
        evidence = {
            "weights": {"stable": 100 - weight, "canary": weight, "shadow": 100 if shadow else 0},
            "policy_digest": self.policy.digest,
            "verdict": None if verdict is None else verdict.as_dict(),
            "ledger": self.ledger_head,  # anchors the log: cutting records off its end shows
        }
        commit = self.actuator.set_weights(100 - weight, weight, evidence, shadow=100 if shadow else 0)
        self.weight, self.shadow = weight, shadow
        mirrored = ", every request mirrored to it" if shadow else ""
        self._tell("weights_set", f"canary at {weight} %{mirrored}", commit=commit)

    def _check_alone(self) -> None:
        edit = self.actuator.foreign_edit()
        if edit is not None:
            raise _SomeoneElseError(edit)

    def _tell(self, kind: str, message: str, told: Verdict | None = None, /, **fields: Any) -> None:
        at = self.clock.now()
        self.ledger_head = self.ledger.record(kind, at, weight=self.weight, shadow=self.shadow, **fields)
        self.on_event(Event(kind, at, self.weight, message, told))
