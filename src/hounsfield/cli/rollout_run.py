"""`hounsfield rollout run`: the controller on a cluster, in a clone of the repository that ArgoCD watches.

Exit code 0: promoted, or passed as a shadow. 3: rolled back, or a person stepped in. 2: it could not go on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from hounsfield.errors import RolloutError

NOT_PROMOTED = 3


def add_commands(commands, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the sub-commands to `commands`; `command` is what the main parser makes each of them with."""
    run = command(
        commands,
        "run",
        _run,
        "run the canary of a cluster's tree, with the metrics of a Prometheus server",
        "hounsfield rollout run --tree gitops --overlay production --prometheus http://prometheus:9090 "
        "--ledger ledger.jsonl --gate-key 2o7H...",
    )
    add = run.add_argument
    add("--tree", type=Path, required=True, help="a clone of the repository, with an upstream to push to")
    add("--overlay", required=True, help="whose rollout.yaml and policy: staging, production")
    add("--prometheus", required=True, metavar="URL", help="the server's address")
    for role in ("stable", "canary"):
        add(
            f"--{role}",
            default=f'pod=~"opacity-{role}-predictor-.*"',
            metavar="SELECTOR",
            help=f"labels of the {role} pods' series (default: %(default)s)",
        )
    add("--ledger", type=Path, required=True, help="the ledger, with the gate's record in it")
    add("--gate-key", required=True, help="the public key that the gate's passes are signed with")
    add("--logs", type=Path, help="folder of the inference logs; the guardrail agreement needs it")


def _run(arguments: argparse.Namespace) -> int:
    from hounsfield.cli.rollout_lines import rollout_lines
    from hounsfield.rollout.actuator import GitActuator, alone
    from hounsfield.rollout.admission import Admission
    from hounsfield.rollout.controller import PROMOTED, SHADOWED, SystemClock
    from hounsfield.rollout.ledger import Ledger
    from hounsfield.rollout.manifest import rollout_file
    from hounsfield.rollout.notify import Notifier
    from hounsfield.rollout.pairs import Pairs, WithPairs
    from hounsfield.rollout.prometheus import PrometheusProvider
    from hounsfield.rollout.release import release
    from hounsfield.rollout.rules import read_rules

    say = rollout_lines(lambda line: print(line, flush=True))
    tree = arguments.tree
    policy, plan = read_rules(tree, arguments.overlay)
    selectors = {"stable": arguments.stable, "canary": arguments.canary}
    # Two scrapes of the usual 30 s may be missed before a pod counts as gone.
    provider = PrometheusProvider(arguments.prometheus, selectors, max_age_s=90.0)
    with alone(tree):
        actuator = GitActuator(tree, file=rollout_file(arguments.overlay))
        if any(guardrail.name == "agreement" for guardrail in policy.guardrails):
            if arguments.logs is None:
                raise RolloutError("the policy guards agreement, which is in the inference logs: add --logs")
            provider = WithPairs(provider, Pairs(arguments.logs, actuator.revisions()))
        with Notifier(policy.notifications) as notify:
            result = release(
                policy,
                provider,
                actuator,
                Ledger(arguments.ledger),
                SystemClock(),
                lambda event: (say(event), notify(event)),
                admission=Admission(arguments.gate_key, policy.gate.digest, plan.digest),
            )
    print(f"{result.outcome}: {result.reason}")
    return 0 if result.outcome in (PROMOTED, SHADOWED) else NOT_PROMOTED
