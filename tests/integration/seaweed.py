"""SeaweedFS, a real S3 server, on ports of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.integration.predictor_process import free_ports


def command(folder: Path, access_key: str, secret_key: str, *flags: str) -> tuple[list[str], str]:
    """The command of a server that keeps its data in `folder` and lets this one key in, and its address."""
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    identity = {"name": "tests", "credentials": credentials, "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = [f"{name}.port{kind}" for name in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    words = [str(Path(sys.executable).parent / "weed"), "server", "-s3", f"-dir={folder}"]
    words += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={folder / 's3.json'}"]
    words += [f"-{name}={port}" for name, port in ports.items()]
    # Else two at once meet at these ports, and each tells its maker that it runs.
    words += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    return [*words, *flags], f"http://127.0.0.1:{ports['s3.port']}"
