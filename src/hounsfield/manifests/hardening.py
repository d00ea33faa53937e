"""Pod Security `restricted`, and what NSA and CISA ask of a pod and of a namespace beyond it.

Sources: Kubernetes 1.36, "Pod Security Standards" (each function names its control); NSA/CISA "Kubernetes
Hardening Guide" 1.2 (August 2022), sections "Kubernetes Pod security", "Network separation and hardening" and
"Authentication and authorization".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hounsfield.laptop.strict import name_of
from hounsfield.manifests.pods import Pod, pods
from hounsfield.manifests.reach import isolates

_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected",
    "secret",
}  # fmt: skip
_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
}  # fmt: skip
_SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_SECCOMP = {"RuntimeDefault", "Localhost"}
_SECRET_WORDS = (
    "PASSWORD",
    "PASSWD",
    "SECRET",
    "TOKEN",
    "API_KEY",
    "ACCESS_KEY",
    "PRIVATE_KEY",
    "CREDENTIAL",
)


def findings(objects: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the pods and the namespaces of `objects`, a sentence each; [] when nothing is."""
    found = []
    for pod in pods(objects):
        found += [*restricted(pod), *nsa_cisa(pod)]
        if any(item["kind"] == "Namespace" for item in objects):  # the laptop has none
            found += _unseparated(pod, objects)
    return [*found, *_namespaces(objects), *_permissions(objects)]


def restricted(pod: Pod) -> Iterator[str]:
    """What Pod Security admission at level `restricted` would refuse."""
    spec, context = pod.spec, pod.spec.get("securityContext") or {}
    for key in ("hostNetwork", "hostPID", "hostIPC"):  # Host Namespaces
        if spec.get(key):
            yield f"{pod.where}: {key} is true"
    for volume in spec.get("volumes") or ():  # HostPath Volumes, Volume Types
        for kind in set(volume) - {"name"} - _VOLUMES:
            yield f"{pod.where}: volume {volume['name']} is a {kind}"
    for sysctl in context.get("sysctls") or ():
        if sysctl["name"] not in _SYSCTLS:
            yield f"{pod.where}: sysctl {sysctl['name']}"
    yield from _contexts(pod.where, context)
    for where, container in pod.containers():
        own = container.get("securityContext") or {}
        yield from _contexts(where, own)
        if own.get("privileged"):  # Privileged Containers
            yield f"{where}: privileged"
        if own.get("allowPrivilegeEscalation") is not False:  # Privilege Escalation
            yield f"{where}: allowPrivilegeEscalation is not false"
        capabilities = own.get("capabilities") or {}  # Capabilities
        if "ALL" not in (capabilities.get("drop") or ()):
            yield f"{where}: capabilities.drop lacks ALL"
        for capability in set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
            yield f"{where}: capability {capability} is added"
        if own.get("procMount", "Default") != "Default":  # /proc Mount Type
            yield f"{where}: procMount is {own['procMount']}"
        if own.get("runAsNonRoot", context.get("runAsNonRoot")) is not True:  # Running as Non-root
            yield f"{where}: runAsNonRoot is not true"
        seccomp = own.get("seccompProfile") or context.get("seccompProfile") or {}  # Seccomp
        if seccomp.get("type") not in _SECCOMP:
            yield f"{where}: seccompProfile is neither of {', '.join(sorted(_SECCOMP))}"
        for port in container.get("ports") or ():  # Host Ports
            if port.get("hostPort"):
                yield f"{where}: hostPort {port['hostPort']}"
        for probe in _probes(container):  # Host Probes / Lifecycle Hooks (1.34)
            if any((probe.get(way) or {}).get("host") for way in ("httpGet", "tcpSocket")):
                yield f"{where}: a probe names a host"


def _contexts(where: str, context: Mapping[str, Any]) -> Iterator[str]:
    """The controls that a pod and a container share."""
    if context.get("runAsUser") == 0:  # Running as Non-root user
        yield f"{where}: runAsUser is 0"
    if context.get("runAsNonRoot") is False:
        yield f"{where}: runAsNonRoot is false"
    if (context.get("windowsOptions") or {}).get("hostProcess"):  # HostProcess
        yield f"{where}: hostProcess"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type", "") not in _SELINUX or selinux.get("user") or selinux.get("role"):
        yield f"{where}: seLinuxOptions {dict(selinux)}"
    if (context.get("appArmorProfile") or {}).get("type") == "Unconfined":
        yield f"{where}: appArmorProfile is Unconfined"
    if (context.get("seccompProfile") or {}).get("type") == "Unconfined":
        yield f"{where}: seccompProfile is Unconfined"


def _probes(container: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for key in ("livenessProbe", "readinessProbe", "startupProbe"):
        yield container.get(key) or {}
    yield from (hook for hook in (container.get("lifecycle") or {}).values() if isinstance(hook, Mapping))


def nsa_cisa(pod: Pod) -> Iterator[str]:
    """The guide's list for a pod, beyond what `restricted` asks."""
    spec, context = pod.spec, pod.spec.get("securityContext") or {}
    # "Protecting Pod service account tokens": a workload that needs one says why in an annotation.
    if spec.get("automountServiceAccountToken") is not False and not pod.annotations.get(
        "hounsfield.dev/token-because"
    ):
        yield f"{pod.where}: a service account token is mounted"
    for where, container in pod.containers():
        own = container.get("securityContext") or {}
        # "Non-root containers": by a number, for the kubelet cannot tell by a name.
        if not own.get("runAsUser", context.get("runAsUser")):
            yield f"{where}: no runAsUser"
        if own.get("readOnlyRootFilesystem") is not True:  # "Immutable container file systems"
            yield f"{where}: readOnlyRootFilesystem is not true"
        image = container.get("image", "")  # "Building secure container images"
        tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
        if "@sha256:" not in image and tag in ("", "latest"):
            yield f"{where}: image {image!r} has no version"
        resources = container.get("resources") or {}  # "Resource policies"
        for kind in ("requests", "limits"):
            for unit in {"cpu", "memory"} - set(resources.get(kind) or ()):
                yield f"{where}: resources.{kind}.{unit} is missing"
        for item in container.get("env") or ():  # "Secrets": by reference only
            name = item["name"].upper()
            is_path = name.endswith(("_FILE", "_PATH"))
            if item.get("value") and not is_path and any(word in name for word in _SECRET_WORDS):
                yield f"{where}: env {item['name']} holds a value, not a reference"


def _unseparated(pod: Pod, objects: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """ "Network policies": every pod is closed both ways unless a policy opens it."""
    for direction in ("Ingress", "Egress"):
        if not any(isolates(item, pod, direction) for item in objects if item["kind"] == "NetworkPolicy"):
            yield f"{pod.where}: no NetworkPolicy closes its {direction.lower()}"


def _namespaces(objects: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for namespace in (item for item in objects if item["kind"] == "Namespace"):
        name, labels = namespace["metadata"]["name"], namespace["metadata"].get("labels", {})
        if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"Namespace {name}: Pod Security is not enforced at restricted"
        for kind in ("LimitRange", "ResourceQuota"):
            if not any(o["kind"] == kind and o["metadata"].get("namespace") == name for o in objects):
                yield f"Namespace {name}: it has no {kind}"


def _permissions(objects: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """ "Role-based access control": least verbs; "Secrets": none in a manifest."""
    for item in objects:
        if item["kind"] in ("Role", "ClusterRole"):
            for rule in item.get("rules") or ():
                for key in ("apiGroups", "resources", "verbs"):
                    if "*" in rule.get(key, ()):
                        yield f"{name_of(item)}: {key} has a wildcard"
                for verb in {"escalate", "bind", "impersonate"} & set(rule["verbs"]):
                    yield f"{name_of(item)}: verb {verb}"
        if item["kind"] in ("RoleBinding", "ClusterRoleBinding") and item["roleRef"]["name"] in (
            "cluster-admin", "admin", "edit",
        ):  # fmt: skip
            yield f"{name_of(item)}: it hands out {item['roleRef']['name']}"
        if item["kind"] == "Secret" and (item.get("data") or item.get("stringData")):
            yield f"{name_of(item)}: a secret's value stands in a manifest"
