"""What is simulated: a hospital's policy with its truths, and single guardrails beside a fixed-size test."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from bench.rollout.simulation import Truth

POLICY = (
    Truth("error rate", 0.02, 0.01, 0.01, expected=0.01),
    Truth("refusals", 0.03, 0.02, 0.02, expected=0.02),
    Truth("review share", 0.1, 0.2, 0.2, expected=0.2),
    Truth("latency", 0.05, 0.02, 0.02, expected=0.01, alone=True),
    Truth("sensitivity", 0.05, 0.15, 0.15, expected=0.15, share=0.2),
    Truth("specificity", 0.05, 0.15, 0.15, expected=0.15, share=0.3),
    *(Truth(f"review share of group {group}", 0.15, 0.2, 0.2, 0.2, share=0.25) for group in "ABCD"),
)
"""Six guardrails and one of them in four subgroups; a fifth of the cases come back with a positive label,
three tenths with a negative one. As it stands, the canary is as good as the stable revision."""


@dataclass(frozen=True)
class Case:
    name: str
    truths: tuple[Truth, ...]


def _but(**changes: float) -> tuple[Truth, ...]:
    """POLICY with the canary's rate raised by `changes` (names with _ for a space)."""
    by_name = {name.replace("_", " "): value for name, value in changes.items()}
    return tuple(
        dataclasses.replace(truth, canary=round(truth.canary + by_name.get(truth.name, 0), 9))
        for truth in POLICY
    )


def _at_margin(truth: Truth) -> Truth:
    return dataclasses.replace(
        truth, canary=truth.margin if truth.alone else round(truth.stable + truth.margin, 9)
    )


def _mirrored(truth: Truth, together: float) -> Truth:
    """At its margin, in a shadow (see `Truth.together`). Alone: other guardrails could only hold it up."""
    return dataclasses.replace(_at_margin(truth), together=together)


CASES = (
    Case("no difference", POLICY),
    Case("error rate exactly at its margin", _but(error_rate=0.02)),
    Case("everything exactly at its margin", tuple(map(_at_margin, POLICY))),
    Case(
        "the same, while all rates drift together",
        tuple(
            truth if truth.alone else dataclasses.replace(truth, drift=0.8 * truth.stable)
            for truth in map(_at_margin, POLICY)
        ),
    ),
    Case("a mirror: error rate at its margin, the same requests fail", (_mirrored(POLICY[0], 1.0),)),
    Case("a mirror: error rate at its margin, no request fails twice", (_mirrored(POLICY[0], 0.0),)),
    Case("a mirror: review share at its margin, no case is sent by both", (_mirrored(POLICY[2], 0.0),)),
    Case("5-point error-rate loss", _but(error_rate=0.05)),
    Case("10-point sensitivity loss", _but(sensitivity=0.1)),
    Case("one bad subgroup of four (30 points)", _but(review_share_of_group_B=0.3)),
)


@dataclass(frozen=True)
class Race:
    """One guardrail beside a fixed-size test of the same level: to find a loss, or to show that there is
    none."""

    name: str
    truth: Truth
    stable_per_canary: int = 1
    guardrails: int = 1
    """How many the policy has; the levels are divided among them for a rollback."""

    @property
    def is_loss(self) -> bool:
        return self.truth.is_beyond


def _error(margin: float, canary: float) -> Truth:
    return Truth("error rate", margin, 0.01, canary, expected=0.01)


def _miss(margin: float, canary: float) -> Truth:
    return Truth("sensitivity", margin, 0.15, canary, expected=0.15)


RACES = (
    Race("5-point error-rate loss, margin 1 point", _error(0.01, 0.06)),
    Race("the 5-point loss at 5 % of the traffic", _error(0.01, 0.06), stable_per_canary=19),
    Race("the 5-point loss, one of 10 guardrails", _error(0.01, 0.06), guardrails=10),
    Race("10-point sensitivity loss, margin 2 points", _miss(0.02, 0.25)),
    Race("the 10-point loss, one of 10 guardrails", _miss(0.02, 0.25), guardrails=10),
    Race("no error-rate loss, margin 2 points", _error(0.02, 0.01)),
    Race("no error-rate loss at 5 % of the traffic", _error(0.02, 0.01), stable_per_canary=19),
    Race("no sensitivity loss, margin 10 points", _miss(0.1, 0.15)),
)
