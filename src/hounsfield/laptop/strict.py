"""Nothing in a manifest is passed over in silence.

A key is honoured, or it is one that only a scheduler acts on, or it is refused by its full path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hounsfield.errors import PlatformError

SCHEDULING = frozenset(
    {
        # Where, with how much and with what rights a pod runs: here is one machine and one user.
        "affinity", "annotations", "automountServiceAccountToken", "containerConcurrency",
        "deploymentStrategy", "image", "imagePullPolicy", "imagePullSecrets", "labels", "livenessProbe",
        "maxReplicas", "minReplicas", "nodeSelector", "priorityClassName", "replicas", "resources",
        "scaleMetric", "scaleMetricType", "scaleTarget", "securityContext", "serviceAccountName",
        "startupProbe", "terminationGracePeriodSeconds", "tolerations", "topologySpreadConstraints",
        "volumeMounts", "volumes",
    }
)  # fmt: skip


def refuse(where: str, value: object) -> PlatformError:
    return PlatformError(
        f"{where} is {value!r}, which the laptop platform cannot honour; take it out of the laptop overlay"
    )


def only(
    mapping: Mapping[str, Any], where: str, honoured: Iterable[str], ignored: Iterable[str] = ()
) -> Mapping[str, Any]:
    """`mapping` itself, when every key is honoured or ignored; PlatformError naming the first other one."""
    known = set(honoured) | set(ignored)
    for key in mapping:
        if key not in known:
            raise PlatformError(
                f"{where}.{key} cannot be honoured by the laptop platform; take it out of the laptop overlay"
            )
    return mapping


def one(items: Sequence[Any], where: str) -> Any:
    """The only item of `items`; PlatformError when there are none or several."""
    if len(items) != 1:
        raise PlatformError(f"{where}: the laptop platform runs exactly 1, the overlay has {len(items)}")
    return items[0]


def name_of(item: Mapping[str, Any]) -> str:
    return f"{item['kind']} {item['metadata']['name']}"
