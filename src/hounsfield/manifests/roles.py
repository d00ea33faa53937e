"""What each role may do: RBAC as the API server evaluates it, and the gateway's rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hounsfield.errors import ConfigError

Object = Mapping[str, Any]
SAYS = "hounsfield.dev/says"
"""A Role's own sentence."""

_GUARDED = ("secrets", "pods/exec", "pods/attach", "pods/portforward", "pods/log", "persistentvolumes")
"""Ways to what the manifests keep from people; which of them a role lacks is said."""

Resource = tuple[str, str]
"""API group ('' is the core) and resource, with its subresource: ('', 'pods/log')."""


def grants(objects: Sequence[Object], kind: str, name: str) -> dict[Resource, frozenset[str]]:
    """The verbs of the subject `name` (`kind` is Group, ServiceAccount or User) by resource."""
    roles = {item["metadata"]["name"]: item for item in objects if item["kind"] == "Role"}
    found: dict[Resource, frozenset[str]] = {}
    for binding in (item for item in objects if item["kind"] == "RoleBinding"):
        if not any((s["kind"], s["name"]) == (kind, name) for s in binding.get("subjects") or ()):
            continue
        role = roles.get(binding["roleRef"]["name"])
        if role is None:
            raise ConfigError(
                f"RoleBinding {binding['metadata']['name']} names the Role {binding['roleRef']['name']}, "
                "which is not there"
            )
        for rule in role.get("rules") or ():
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    verbs = found.get((group, resource), frozenset())
                    found[group, resource] = verbs | set(rule["verbs"])
    return found


def people(objects: Sequence[Object]) -> dict[str, str]:
    """The Group by role, of the Roles that people have."""
    return {
        binding["roleRef"]["name"]: subject["name"]
        for binding in objects
        if binding["kind"] == "RoleBinding"
        for subject in binding.get("subjects") or ()
        if subject["kind"] == "Group"
    }


def explain(objects: Sequence[Object], role: str) -> Iterator[str]:
    """What `role` may do, a line each; ConfigError for a role that nobody is bound to."""
    groups = people(objects)
    if role not in groups:
        raise ConfigError(f"there is no role {role!r}; there are {', '.join(sorted(groups))}")
    (item,) = [o for o in objects if o["kind"] == "Role" and o["metadata"]["name"] == role]
    yield f"{role}: {item['metadata']['annotations'][SAYS]}"
    yield f"who: members of the group {groups[role]}"
    yield ""
    yield "at the gateway, with a token or an API key:"
    yield from (f"  {line}" for line in _at_the_gateway(objects))
    yield ""
    yield f"in the cluster's API, namespace {item['metadata'].get('namespace', '?')}:"
    by_verbs: dict[tuple[str, ...], list[str]] = {}
    for (group, resource), verbs in sorted(grants(objects, "Group", groups[role]).items()):
        by_verbs.setdefault(tuple(sorted(verbs)), []).append(f"{resource}.{group}" if group else resource)
    for verbs, resources in by_verbs.items():
        yield f"  {', '.join(verbs)}: {', '.join(resources)}"
    if not by_verbs:
        yield "  nothing"
    held = grants(objects, "Group", groups[role])
    yield f"  never: {', '.join(name for name in _GUARDED if ('', name) not in held)}"


def _at_the_gateway(objects: Sequence[Object]) -> Iterator[str]:
    """By the AuthorizationPolicies that act on it; they deny, and what they leave is allowed."""
    routed = [
        next(iter(match["uri"].values()))
        for item in objects
        if item["kind"] == "VirtualService"
        for route in item["spec"]["http"]
        for match in route.get("match", ())
        if "route" in route and "uri" in match
    ]
    yield f"ask: {', '.join(dict.fromkeys(routed))}"
    for item in objects:
        if item["kind"] == "AuthorizationPolicy" and item["spec"].get("action") == "DENY":
            for rule in item["spec"]["rules"]:
                for when in rule.get("when", ()):
                    if when["key"].startswith("request.auth.claims"):
                        values = ", ".join(when["notValues"])
                        yield f"ask one revision by name: only with {values} in {when['key']}"
