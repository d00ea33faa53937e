"""Approvals: who has let a canary go on, as their own keys say and not as the caller does.

An approver signs {package_digest, step, at} with an Ed25519 key whose public half the policy lists under
their name. The signed entry goes into the ledger; who carries it there matters to nobody. Docs: ADR 12.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hounsfield.errors import RolloutError
from hounsfield.rollout import signed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from hounsfield.rollout.policy import Policy

KIND = "approval"
FIELDS = {"package_digest", "step", "at"}


def approve(key: Ed25519PrivateKey, package_digest: str, step: str, at: float) -> dict[str, Any]:
    """The signed entry that lets the package go on from the step of that name (`Step.name`), at the unix time
    `at` (seconds)."""
    return signed.sign(KIND, {"package_digest": package_digest, "step": step, "at": at}, key)


def approver(
    entry: Any, approvers: Mapping[str, str], package_digest: str, step: str, since: float = 0.0
) -> str:
    """Who has signed `entry` for just this: the name by the policy's `approvers`, names to public keys.

    RolloutError says what does not hold: the signature, the key, the package, the step, or that it was signed
    before `since`, the start of the rollout.
    """
    statement, key = signed.verify(KIND, entry)
    name = next((name for name, listed in approvers.items() if listed == key), None)
    if name is None:
        raise RolloutError(
            f"the key {key[:12]}... is of none of the policy's approvers ({', '.join(approvers) or 'none'})"
        )
    if set(statement) != FIELDS:
        raise RolloutError(f"the approval of {name} does not say {', '.join(sorted(FIELDS))}")
    if statement["package_digest"] != package_digest:
        raise RolloutError(
            f"the approval of {name} is for the package {str(statement['package_digest'])[:12]}, "
            f"not for {package_digest[:12]}"
        )
    if statement["step"] != step:
        raise RolloutError(f"the approval of {name} is for the step {statement['step']}, not for {step}")
    at = statement["at"]
    if isinstance(at, bool) or not isinstance(at, int | float) or not at >= since:
        raise RolloutError(f"the approval of {name} was signed before this rollout began")
    return name


def require_promotion(entries: Iterable[Any], policy: Policy, package_digest: str, since: float) -> None:
    """Return if as many different approvers as `policy` asks for have signed the promotion since `since`.

    They sign the step before all of the traffic. RolloutError says who has and how many are wanting.
    """
    wanted = policy.promotion_approvals
    if not wanted:
        return
    step = policy.all_steps[-2].name
    names = given(entries, policy.approvers, package_digest, step, since)
    if len(names) < wanted:
        raise RolloutError(
            f"the promotion of {package_digest[:12]} needs {wanted} different approvers, and "
            f"{len(names)} signed it{': ' + ', '.join(names) if names else ''}"
        )


def given(
    entries: Iterable[Any], approvers: Mapping[str, str], package_digest: str, step: str, since: float = 0.0
) -> tuple[str, ...]:
    """The different approvers whose entries hold, sorted. An entry that does not hold counts for nothing."""
    names = set()
    for entry in entries:
        try:
            names.add(approver(entry, approvers, package_digest, step, since))
        except RolloutError:
            continue
    return tuple(sorted(names))
