"""RequestAuthentication and AuthorizationPolicy -> Envoy's jwt_authn and rbac filters (pure).

The translation is Istio's (pilot/pkg/security/authn and authz), for the part that our manifests use. The rest
is refused by name: a rule of access that is passed over would be an open door.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hounsfield.laptop.strict import name_of, one, only, refuse

JWT = "envoy.filters.http.jwt_authn"
RBAC = "envoy.filters.http.rbac"
_API = "type.googleapis.com/envoy.extensions.filters.http"
_PAYLOAD = "payload"  # Istio's key of the claims in the filter's metadata


def jwt_filter(authentication: Mapping[str, Any], jwks: Path) -> dict[str, Any]:
    """A token that is sent must be valid, none is no error: that is for the AuthorizationPolicy.

    A rule without `jwks` and `jwksUri` is this machine's own issuer: its public keys are in the file `jwks`.
    """
    where = name_of(authentication)
    spec = only(authentication["spec"], f"{where}.spec", {"jwtRules"}, {"selector"})
    rule = one(spec["jwtRules"], f"{where}.spec.jwtRules")
    only(rule, f"{where}.spec.jwtRules[0]", {"issuer", "audiences", "jwks", "outputClaimToHeaders"})
    keys = {"inline_string": rule["jwks"]} if "jwks" in rule else {"filename": str(jwks)}
    provider = {
        "issuer": rule["issuer"],
        "audiences": rule.get("audiences", []),
        "local_jwks": keys,
        "payload_in_metadata": _PAYLOAD,
        "claim_to_headers": [
            {"header_name": item["header"], "claim_name": item["claim"]}
            for item in rule.get("outputClaimToHeaders", [])
        ],
    }
    requirement = {"requires_any": {"requirements": [{"provider_name": "issuer"}, {"allow_missing": {}}]}}
    return {
        "name": JWT,
        "typed_config": {
            "@type": f"{_API}.jwt_authn.v3.JwtAuthentication",
            "providers": {"issuer": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": requirement}],
        },
    }


def rbac_filters(policies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One filter for all DENY policies, then one for all ALLOW policies, as Istio builds them."""
    found = []
    for action in ("DENY", "ALLOW"):
        rules = {}
        for policy in policies:
            spec = only(policy["spec"], f"{name_of(policy)}.spec", {"action", "rules"}, {"selector"})
            if spec.get("action", "ALLOW") not in ("DENY", "ALLOW"):
                raise refuse(f"{name_of(policy)}.spec.action", spec["action"])
            if spec.get("action", "ALLOW") == action:
                for number, rule in enumerate(spec["rules"]):
                    where = f"{name_of(policy)}.spec.rules[{number}]"
                    rules[f"{policy['metadata']['name']}[{number}]"] = _rule(rule, where)
        if rules:
            config = {"@type": f"{_API}.rbac.v3.RBAC", "rules": {"action": action, "policies": rules}}
            found.append({"name": RBAC, "typed_config": config})
    return found


def _rule(rule: Mapping[str, Any], where: str) -> dict[str, Any]:
    only(rule, where, {"to", "when"})
    permissions = [
        _operation(only(item, f"{where}.to", {"operation"})["operation"], f"{where}.to")
        for item in rule["to"]
    ]
    conditions = [
        part
        for condition in rule.get("when", [])
        for part in _both(
            condition, "values", "notValues", _principal(condition, where), "or_ids", "ids", "not_id"
        )
    ]
    principal = {"and_ids": {"ids": conditions}} if conditions else {"any": True}
    return {"permissions": permissions, "principals": [principal]}


def _operation(operation: Mapping[str, Any], where: str) -> dict[str, Any]:
    only(operation, f"{where}.operation", {"paths", "notPaths", "methods", "notMethods"})
    parts = [
        *_both(operation, "paths", "notPaths", _path, "or_rules", "rules", "not_rule"),
        *_both(operation, "methods", "notMethods", _method, "or_rules", "rules", "not_rule"),
    ]
    return {"and_rules": {"rules": parts or [{"any": True}]}}


def _both(
    item: Mapping[str, Any],
    yes: str,
    no: str,
    matcher: Callable[[str], dict],
    any_of: str,
    kind: str,
    not_: str,
) -> list[dict[str, Any]]:
    """Istio's pair of lists: any of the values of `yes`, and none of those of `no`."""
    found = []
    if item.get(yes):
        found.append({any_of: {kind: [matcher(value) for value in item[yes]]}})
    if item.get(no):
        found.append({not_: {any_of: {kind: [matcher(value) for value in item[no]]}}})
    return found


def _principal(condition: Mapping[str, Any], where: str) -> Callable[[str], dict[str, Any]]:
    only(condition, f"{where}.when", {"key", "values", "notValues"})
    kind, _, rest = condition["key"].partition("[")
    name = rest.removesuffix("]")
    if kind == "request.headers" and name:
        return lambda value: {"header": _header(name, value)}
    if kind == "request.auth.claims" and name and "[" not in name:
        # Istio writes the older `metadata`, which Envoy 1.40 calls deprecated and reads the same.
        return lambda value: {"sourced_metadata": {"metadata_matcher": _claim(name, value)}}
    raise refuse(f"{where}.when.key", condition["key"])


def _path(value: str) -> dict[str, Any]:
    return {"url_path": {"path": _string(value)}}


def _method(value: str) -> dict[str, Any]:
    return {"header": _header(":method", value)}


def _header(name: str, value: str) -> dict[str, Any]:
    if value == "*":
        return {"name": name, "present_match": True}
    return {"name": name, "string_match": _string(value)}


def _claim(name: str, value: str) -> dict[str, Any]:
    """A claim that is `value`, or a list that has it."""
    text = {"string_match": _string(value)}
    return {
        "filter": JWT,
        "path": [{"key": _PAYLOAD}, {"key": name}],
        "value": {"or_match": {"value_matchers": [{"list_match": {"one_of": text}}, text]}},
    }


def _string(value: str) -> dict[str, Any]:
    if value == "*":
        return {"safe_regex": {"regex": ".+"}}
    if value.startswith("*"):
        return {"suffix": value[1:]}
    if value.endswith("*"):
        return {"prefix": value[:-1]}
    return {"exact": value}
