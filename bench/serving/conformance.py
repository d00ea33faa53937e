"""`python -m bench.serving.conformance`: the protocol's cases against ours, stock KServe and MLServer.

Prints a table and writes build/bench/conformance.md and .json, which names every case that failed and how.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys

from bench.serving import model, servers
from bench.serving.__main__ import OUT
from bench.serving.protocol import Target, run
from bench.serving.protocol_cases import CASES, GOOD
from bench.serving.servers import Running
from hounsfield.config import MODEL_NAME

TWO_OUTPUTS = {"BENCH_OUTPUTS": "logit,embedding"}
NEXT = "the next request failed"


def main() -> int:
    work = OUT / "conformance"
    work.mkdir(parents=True, exist_ok=True)
    package = model.package(OUT / "models", "pixel-statistics", 32)
    peers = [servers.kserve_stock(package, {})]
    if servers.installed("mlserver"):
        peers.append(servers.mlserver(package, {}, work))
    asked = [(servers.ours("Hounsfield", package, {}), ("probability", "label"))]
    asked += [
        (dataclasses.replace(peer, environment=peer.environment | TWO_OUTPUTS), ("logit", "embedding"))
        for peer in peers
    ]
    # What every server can be asked: the cases of a BYTES input are left out.
    cases = [case for case in CASES if not case.needs_bytes]
    image = model.image(32)
    found = {}
    for server, outputs in asked:
        with Running(server, work / f"{server.name.replace(' ', '-')}.log"):
            target = Target(
                f"http://127.0.0.1:{server.ports[0]}",
                MODEL_NAME,
                "1",
                "image",
                image.shape,
                tuple(image.ravel().tolist()),
                outputs,
            )
            found[server.name] = run(target, cases, GOOD)
    text = table(found)
    (OUT / "conformance.md").write_text(text)
    (OUT / "conformance.json").write_text(json.dumps(found, indent=1))
    print(text)
    return 0


def table(found: dict[str, dict[str, str]]) -> str:
    """Passes by server, and of the failures those that a caller has most reason to fear."""
    total = max(len(by_case) for by_case in found.values())
    lines = [
        f"| server | passes of {total} | 5xx | quotes the request | no answer | breaks the next request |",
        "|---|---|---|---|---|---|",
    ]
    for server, by_case in found.items():
        wrong = list(by_case.values())
        counts = [
            sum(not each for each in wrong),
            sum(bool(re.match(r"status 5\d\d", each)) for each in wrong),
            sum("quotes" in each for each in wrong),
            sum(each.startswith("no answer") for each in wrong),
            sum(each.startswith(NEXT) for each in wrong),
        ]
        lines.append(f"| {server} | " + " | ".join(str(count) for count in counts) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
