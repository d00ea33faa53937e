"""A controller as a process of its own, for the tests that kill it: `python rollout_process.py TREE LEDGER
POLICY URL`.

`URL/stable` and `URL/canary` are the metrics pages, and a POST to `URL/weights` stands for the servers'
taking over the tree's weights. Prints a line for each event, and the outcome last.
"""

import sys
from pathlib import Path

import requests

from hounsfield.rollout import manifest
from hounsfield.rollout.actuator import GitActuator
from hounsfield.rollout.controller import SystemClock, run_canary
from hounsfield.rollout.ledger import Ledger
from hounsfield.rollout.policy import load_policy
from hounsfield.rollout.scrape import ScrapeProvider

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.passes import admitted


def main(tree, ledger, policy, url):
    tree = Path(tree)

    def apply():
        stable, canary = manifest.weights(tree)
        weights = {"stable": stable, "canary": canary, "shadow": manifest.shadow(tree)}
        requests.post(f"{url}/weights", json=weights, timeout=5).raise_for_status()

    manifest.recover(tree)
    apply()  # as a release does at its start: the kill may have come between a commit and this
    actuator, kept = GitActuator(tree, apply), Ledger(Path(ledger))
    revisions = actuator.revisions()
    result = run_canary(
        load_policy(Path(policy)),
        ScrapeProvider({role: f"{url}/{role}" for role in ("stable", "canary")}),
        actuator,
        kept,
        SystemClock(),
        lambda event: print(event.kind, event.weight, flush=True),
        admission=admitted(kept, revisions["stable"], revisions["canary"]),
    )
    print(f"outcome {result.outcome}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
