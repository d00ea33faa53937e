"""Nothing reaches shadow, or any traffic, without a pass of the gate that is about just this.

The gate signs what it has judged: which package beside which champion, on which set, by which policy and
plan. The record of it is in the ledger; whoever would move traffic asks here first. A record of another
package, policy, plan or champion, one that was edited, or that another key has signed, is no pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hounsfield.errors import RolloutError
from hounsfield.rollout import signed
from hounsfield.rollout.ledger import Ledger

KIND = "gate"
FIELDS = (
    "passed",
    "package_digest",
    "champion_digest",
    "policy_digest",
    "plan_digest",
    "validation_digest",
    "at",
)
_NAMES = {
    "package_digest": "package",
    "champion_digest": "champion",
    "policy_digest": "gate policy",
    "plan_digest": "change plan",
}


def statement(**values: Any) -> dict[str, Any]:
    """What the gate signs: the keys of FIELDS. `champion_digest` is None where there was no champion."""
    assert set(values) == set(FIELDS)  # noqa: S101  only the gate calls this
    return values


@dataclass(frozen=True)
class Admission:
    """What a pass has to be about: the gate's public key, and the digests of the gate policy and the plan."""

    gate_key: str
    policy_digest: str
    plan_digest: str

    def check(self, entry: Any, package_digest: str, champion_digest: str | None) -> None:
        """Return if `entry` is the gate's pass for this package; RolloutError says what it is instead."""
        found, key = signed.verify(KIND, entry)
        if key != self.gate_key:
            raise RolloutError(
                f"the gate record is signed with the key {key[:12]}..., which is not the gate's"
            )
        wanted = {
            "package_digest": package_digest,
            "champion_digest": champion_digest,
            "policy_digest": self.policy_digest,
            "plan_digest": self.plan_digest,
        }
        for name, value in wanted.items():
            if found.get(name) != value:
                raise RolloutError(
                    f"the gate record is of the {_NAMES[name]} {_short(found.get(name))}, "
                    f"not of {_short(value)}"
                )
        if found.get("passed") is not True:
            raise RolloutError(f"the gate has refused the package {_short(package_digest)}")

    def require(self, ledger: Ledger, package_digest: str, champion_digest: str | None) -> None:
        """Return if the last gate record of this package in `ledger` is a pass for it; RolloutError if not.

        The ledger's chain is checked on the way: ChainError for one that was edited.
        """
        entries = ledger.entries(KIND)
        if not entries:
            raise RolloutError(
                f"the package {_short(package_digest)} has no gate record: nothing gets traffic past the gate"
            )
        own = [entry for entry in entries if _is_about(entry, package_digest)]
        try:
            self.check((own or entries)[-1], package_digest, champion_digest)
        except RolloutError as error:
            raise RolloutError(f"{error}; have the gate judge it") from None


def _is_about(entry: Any, package_digest: str) -> bool:
    try:
        return entry["statement"]["package_digest"] == package_digest
    except (TypeError, KeyError):
        return False


def _short(value: Any) -> str:
    return "none" if value is None else str(value)[:12]
