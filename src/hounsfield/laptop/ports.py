"""Every port follows from the one that a person chose. All are on 127.0.0.1."""

from __future__ import annotations

from dataclasses import dataclass

from hounsfield.errors import PlatformError

HOST = "127.0.0.1"
ROLES = ("stable", "canary")
SPAN = 13


@dataclass(frozen=True)
class Ports:
    """The gateway's port and the twelve behind it."""

    gateway: int = 8080

    def __post_init__(self) -> None:
        if not 1 <= self.gateway <= 65536 - SPAN:
            raise PlatformError(f"port {self.gateway} cannot be used; choose one from 1024 to {65536 - SPAN}")

    @property
    def stable_http(self) -> int:
        return self.gateway + 1

    @property
    def stable_grpc(self) -> int:
        return self.gateway + 2

    @property
    def canary_http(self) -> int:
        return self.gateway + 3

    @property
    def canary_grpc(self) -> int:
        return self.gateway + 4

    @property
    def gate(self) -> int:
        return self.gateway + 5

    @property
    def envoy_admin(self) -> int:
        return self.gateway + 6

    @property
    def mlflow(self) -> int:
        return self.gateway + 7

    @property
    def gate_grpc(self) -> int:
        return self.gateway + 8

    @property
    def gate_metrics(self) -> int:
        return self.gateway + 9

    @property
    def drift_metrics(self) -> int:
        return self.gateway + 12

    def explainer(self, role: str) -> int:
        """Port of the explainer of the revision `stable` or `canary`."""
        return self.gateway + 10 + ROLES.index(role)

    def of_revision(self, role: str) -> dict[str, int]:
        """Ports of the predictor `stable` or `canary`, by the name of the container's port."""
        first = self.stable_http + 2 * ROLES.index(role)
        return {"http": first, "grpc": first + 1}

    def all(self) -> range:
        return range(self.gateway, self.gateway + SPAN)
