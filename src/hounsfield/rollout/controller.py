"""The loop of a rollout: look, decide, record, move. Tree and ledger hold all of its state."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from hounsfield.errors import RolloutError
from hounsfield.rollout import approvals, decide, outcomes
from hounsfield.rollout.actuator import Actuator, SomeoneElseError
from hounsfield.rollout.admission import Admission
from hounsfield.rollout.decide import Decision, Verdict
from hounsfield.rollout.evidence import MetricsProvider, Observation, Watch
from hounsfield.rollout.ledger import Ledger, Story
from hounsfield.rollout.policy import Kind, Policy, Step

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
class Traffic:
    """What the canary gets: a percent, a copy of every request, the first callers' requests."""

    weight: int = 0
    shadow: bool = False
    first: bool = False


@dataclass(frozen=True)
class StepResult:
    """One weight of the canary: the decision that ended it, and the commit that had set it."""

    weight: int
    shadow: bool
    first: bool
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
    *,
    admission: Admission,
) -> RolloutResult:
    """Take the canary through the policy's steps until it is promoted, rolled back, or someone else steps in.

    Starts from the tree's present weight. A rollout of the same policy and revisions that the ledger has no
    end of is gone on with, evidence and all: starting over would spend the policy's alphas a second time.
    Raises RolloutError when the weight is not one of the policy's, or when the ledger has no pass of the gate
    that satisfies `admission`: then nothing has moved.
    """
    return _Canary(policy, provider, actuator, ledger, clock, on_event, admission).run()


@dataclass
class _Canary:
    policy: Policy
    provider: MetricsProvider
    actuator: Actuator
    ledger: Ledger
    clock: Clock
    on_event: Callable[[Event], None]
    admission: Admission

    def run(self) -> RolloutResult:
        self.steps: list[StepResult] = []
        self.traffic = Traffic(
            self.actuator.weights()[1], self.actuator.shadow() > 0, self.actuator.first() > 0
        )
        weights = [step.weight for step in self.policy.steps]
        if self.traffic.weight not in (0, *weights):
            raise RolloutError(
                f"the canary has {self.traffic.weight} % of the requests, which is no step of the policy "
                f"({', '.join(map(str, weights))}); set it to one of them, or to 0"
            )
        revisions = self.actuator.revisions()
        if self.traffic.weight == 100 and self.ledger.has_promoted(revisions):
            return RolloutResult(PROMOTED, "every step of the policy was passed before", ())
        story = self.ledger.unfinished(self.policy.digest, revisions)
        self.state = decide.begin(self.policy, story.started_at if story else self.clock.now())
        for observation in story.observations if story else ():
            self.state = decide.observe(self.state, observation)
        self.labels = outcomes.Inbox(self.ledger, self.state.started_at, story.outcomes_seen if story else ())
        self.admission.require(self.ledger, revisions["canary"], revisions["stable"])
        self._tell(
            "rollout_started",
            f"from {self.traffic.weight} %" + (", going on with what the ledger holds" if story else ""),
            started_at=self.state.started_at,
            goes_on=story is not None,
            policy=self.policy.as_dict(),
            policy_digest=self.policy.digest,
            method=decide.METHOD,
            revisions=revisions,
            commit=self.actuator.head(),
        )
        try:
            outcome, reason = self._walk(story)
        except SomeoneElseError as edit:
            outcome, reason = HELD, str(edit)
        self._tell("rollout_ended", f"{outcome}: {reason}", outcome=outcome, reason=reason)
        return RolloutResult(outcome, reason, tuple(self.steps))

    def _walk(self, story: Story | None) -> tuple[str, str]:
        self.watch = Watch(self.provider)
        self._look(())  # begins the window
        last = story.verdicts[-1] if story and story.verdicts else None
        # A verdict that was recorded and not carried out is not asked for again.
        decided = None if last is None else Decision(last["verdict"]["decision"])
        verdict = None if decided is None else decide.judge(self.state)
        if decided is Decision.ROLLBACK:
            return self._roll_back(verdict)
        passed = self.state.step if decided is Decision.PROMOTE else None
        for step in self._steps_ahead(passed):
            if self._traffic_of(step) != self.traffic:
                self._move(self._traffic_of(step), verdict)
            verdict = self._decide_step(step)
            if verdict.decision is Decision.ROLLBACK:
                return self._roll_back(verdict)
        if self.policy.strategy == "shadow":
            if self.traffic.shadow:
                self._move(Traffic(), verdict)
            return SHADOWED, "the mirrored requests showed every guardrail to be within its margin"
        return PROMOTED, "every step of the policy was passed"

    def _traffic_of(self, step: Step) -> Traffic:
        """The first callers stay with the canary until the end: their studies would go back and forth."""
        is_after_first = self.policy.first is not None and step.kind is not Kind.SHADOW
        return Traffic(step.weight, shadow=step.kind is Kind.SHADOW, first=is_after_first)

    def _steps_ahead(self, passed: Step | None) -> tuple[Step, ...]:
        """From the one that the tree is at, or the first; `passed` is one that is known to be done."""
        steps = self.policy.all_steps
        here = next((n for n, step in enumerate(steps) if self._traffic_of(step) == self.traffic), None)
        if here is None:  # a person's weights, or none yet
            here = next((n for n, step in enumerate(steps) if 0 < step.weight == self.traffic.weight), 0)
        # A shadow that was all there was to do is over when nothing is mirrored any more.
        is_done = passed == steps[here] and (self.traffic != Traffic() or self.policy.strategy == "shadow")
        return steps[here + is_done :]

    def _roll_back(self, verdict: Verdict) -> tuple[str, str]:
        if self.traffic != Traffic():
            self._move(Traffic(), verdict)
        return ROLLED_BACK, "; ".join(verdict.reasons)

    def _look(self, approved_by: tuple[str, ...]) -> Observation:
        traffic = self.traffic
        judges_first = traffic.first and traffic.weight == 0
        return self.watch.look(self.clock.now(), traffic.weight, traffic.shadow, judges_first, approved_by)

    def _decide_step(self, step: Step) -> Verdict:
        """Look at the present step until it is decided: PROMOTE or ROLLBACK."""
        commit, asked = self.actuator.head(), False
        while True:
            self.clock.sleep(self.policy.interval_s)
            self._check_alone()
            observation = self._look(self._approved_by(step) if step.approval else ())
            observation = self.labels.added_to(observation)
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
                self._event("approval_wanted", observation.at, verdict.reasons[0], verdict)
            if verdict.decision is not Decision.HOLD:
                self.steps.append(
                    StepResult(
                        weight=self.traffic.weight,
                        shadow=self.traffic.shadow,
                        first=step.kind is Kind.FIRST,
                        decision=str(verdict.decision),
                        reasons=verdict.reasons,
                        numbers=verdict.numbers,
                        requests=int(verdict.numbers["canary_requests"]),
                        commit=commit,
                        at=observation.at,
                    )
                )
                return verdict

    def _approved_by(self, step: Step) -> tuple[str, ...]:
        entries, digest = self.ledger.entries(approvals.KIND), self.actuator.revisions()["canary"]
        return approvals.given(entries, self.policy.approvers, digest, step.name, self.state.started_at)

    def _move(self, traffic: Traffic, verdict: Verdict | None) -> None:
        """Move the traffic; `verdict` is the one that led there, None for the first step."""
        self._check_alone()
        weight, shadow = traffic.weight, 100 if traffic.shadow else 0
        first = self.policy.first if traffic.first else None
        evidence = {
            "weights": {"stable": 100 - weight, "canary": weight, "shadow": shadow},
            "first": None if first is None else {first.header: list(first.values)},
            "policy_digest": self.policy.digest,
            "verdict": None if verdict is None else verdict.as_dict(),
            "ledger": self.ledger_head,  # anchors the log: cutting records off its end shows
        }
        commit = self.actuator.set_weights(100 - weight, weight, evidence, shadow, first)
        self.traffic = traffic
        mirrored = ", every request mirrored to it" if shadow else ""
        named = f", and {first.header} {', '.join(first.values)}" if first else ""
        self._tell("weights_set", f"canary at {weight} %{mirrored}{named}", commit=commit)

    def _check_alone(self) -> None:
        edit = self.actuator.foreign_edit()
        if edit is not None:
            raise SomeoneElseError(edit)

    def _tell(self, kind: str, message: str, told: Verdict | None = None, /, **fields: Any) -> None:
        at = self.clock.now()
        self.ledger_head = self.ledger.record(kind, at, **asdict(self.traffic), **fields)
        self._event(kind, at, message, told)

    def _event(self, kind: str, at: float, message: str, told: Verdict | None) -> None:
        self.on_event(Event(kind, at, self.traffic.weight, message, told))
