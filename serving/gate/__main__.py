"""`python -m serving.gate --host 127.0.0.1 ...`: Seldon's microservice with our component, on one network
interface.

Seldon Core 1.17.1 listens on 0.0.0.0 and has no option for it; a workstation must not offer the gate to its
network. All other arguments are Seldon's own. On a cluster the plain `seldon-core-microservice
serving.gate.Gate.Gate` is run.
"""

from __future__ import annotations

import sys

from seldon_core import gunicorn_utils, microservice


def main(arguments: list[str]) -> None:
    host = "127.0.0.1"
    if "--host" in arguments:
        at = arguments.index("--host")
        host = arguments[at + 1]
        arguments = arguments[:at] + arguments[at + 2 :]

    seldon_load_config = gunicorn_utils.StandaloneApplication.load_config

    def load_config(application: gunicorn_utils.StandaloneApplication) -> None:
        port = application.options["bind"].rpartition(":")[2]
        application.options["bind"] = f"{host}:{port}"
        seldon_load_config(application)

    gunicorn_utils.StandaloneApplication.load_config = load_config
    sys.argv = ["seldon-core-microservice", "serving.gate.Gate.Gate", *arguments]
    microservice.main()


if __name__ == "__main__":
    main(sys.argv[1:])
