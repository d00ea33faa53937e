"""SeaweedFS, a real S3 server, on ports of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import requests

from tests.integration.predictor_process import free_ports


@contextlib.contextmanager
def running(folder: Path, access_key: str, secret_key: str, *flags: str) -> Iterator[int]:
    """The port of a server that keeps its data in `folder` and lets this one key in."""
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
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*words, *flags], stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{ports['s3.port']}", process, folder / "log")
        yield ports["s3.port"]
    finally:
        process.kill()
        process.wait()


def wait_for(url: str, process: subprocess.Popen, log: Path) -> requests.Response:
    """What is answered at `url`, once anything is; a process that ended shows its log."""
    for _ in range(300):
        if process.poll() is not None:
            break
        try:
            return requests.get(url, timeout=5)
        except requests.ConnectionError:
            time.sleep(0.1)
    raise AssertionError(log.read_text()[-2000:])
