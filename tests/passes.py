"""A pass of the gate for tests that are about something else: signed with a key of its own."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hounsfield.rollout import admission, signed
from hounsfield.rollout.admission import Admission

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
ADMISSION = Admission(signed.key_name(KEY), policy_digest="policy", plan_digest="plan")


def entry(package_digest, champion_digest, key=KEY, **changes):
    """A gate record's entry: a pass of `package_digest` beside `champion_digest`, but for `changes`."""
    values = {
        "passed": True,
        "package_digest": package_digest,
        "champion_digest": champion_digest,
        "policy_digest": ADMISSION.policy_digest,
        "plan_digest": ADMISSION.plan_digest,
        "validation_digest": "v" * 64,
        "at": 0.0,
    }
    return signed.sign(admission.KIND, admission.statement(**{**values, **changes}), key)


def admitted(ledger, stable, canary):
    """Record a pass of `canary` beside `stable`, unless there is one, and return what it satisfies."""
    passed = entry(canary, stable)
    if not ledger.path.exists() or passed["signature"] not in ledger.path.read_text():
        ledger.record(admission.KIND, 0.0, entry=passed)
    return ADMISSION
