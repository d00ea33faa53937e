"""The laptop's traffic stays behind the gate: a canary with a share of it needs a pass, whoever gave it."""

from __future__ import annotations

from hounsfield.config import Home
from hounsfield.errors import RolloutError
from hounsfield.laptop.processes import GATE_KEY
from hounsfield.rollout import manifest, repository, rules, signed
from hounsfield.rollout.admission import Admission
from hounsfield.rollout.change_plan import ChangePlan
from hounsfield.rollout.ledger import Ledger
from hounsfield.rollout.manifest import NOTHING
from hounsfield.rollout.policy import Policy


def read_rules(home: Home) -> tuple[Policy, ChangePlan]:
    """The policy of the laptop's overlay, and the change plan of the tree."""
    return rules.read_rules(home.tree, "laptop")


def admission(home: Home, policy: Policy, plan: ChangePlan) -> Admission:
    """What a pass of this home's gate has to be about."""
    gate_key = signed.key_name(signed.ensure_key(home.keys / GATE_KEY))
    return Admission(gate_key, policy.gate.digest, plan.digest)


def check_admitted(home: Home) -> None:
    """Raises RolloutError when the tree gives requests to a canary that the gate has not passed.

    A package that has been stable before may come back without: a rollback by hand waits for nobody.
    """
    traffic = (manifest.weights(home.tree)[1], manifest.shadow(home.tree), manifest.first(home.tree))
    stable, canary = (manifest.revision(home.tree, role).package_digest for role in ("stable", "canary"))
    # The same package on both sides is a promotion that is being finished.
    if not any(traffic) or canary in (NOTHING, stable):
        return
    found = admission(home, *read_rules(home))
    try:
        found.require(Ledger(home.ledger), canary, None if stable == NOTHING else stable)
    except RolloutError:
        if canary not in repository.former_champions(home.tree):
            raise
