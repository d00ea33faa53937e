"""Who may call the laptop's gateway: API keys, and tokens of this machine's own issuer.

Everything lies in one folder that only its owner can read, and nothing of it is ever in git: `api-keys.json`,
which Envoy reads again whenever it is replaced (it wants the keys themselves, not hashes), `issuer.key`, with
which tokens are signed, and `jwks.json`, its public half. A cluster has an identity provider in its place.
"""

from __future__ import annotations

import base64
import datetime
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hounsfield.errors import ConfigError
from hounsfield.laptop.tls import write_private

ISSUER = "https://issuer.hounsfield.invalid"
AUDIENCE = "hounsfield"
KEY_HEADER = "x-api-key"
CALLER_HEADER = "x-hounsfield-caller"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_EXTENSIONS = "type.googleapis.com/envoy.extensions"


def ensure_files(folder: Path) -> None:
    """Make what Envoy must find in `folder`: the issuer's public key, and the API keys (none at first)."""
    if not (folder / "jwks.json").exists():
        _make_issuer(folder)
    if not (folder / "api-keys.json").exists():
        _write_keys(folder, {})


def make_api_key(folder: Path, name: str) -> str:
    """A new key of the caller `name`, in force at once; an earlier one of that name is not valid any more."""
    keys = api_keys(folder)
    keys[_checked(name)] = key = f"hfk_{secrets.token_urlsafe(32)}"
    _write_keys(folder, keys)
    return key


def revoke_api_key(folder: Path, name: str) -> None:
    keys = api_keys(folder)
    if name not in keys:
        raise ConfigError(f"there is no API key of {name!r}; there are keys of {', '.join(keys) or 'nobody'}")
    del keys[name]
    _write_keys(folder, keys)


def api_keys(folder: Path) -> dict[str, str]:
    """Keys by the caller's name."""
    try:
        (resource,) = json.loads((folder / "api-keys.json").read_bytes())["resources"]
        credentials = resource["typed_config"]["extension_config"]["typed_config"].get("credentials", [])
    except FileNotFoundError:
        return {}
    return {item["client"]: item["key"] for item in credentials if item["client"] != _NOBODY}


def make_token(
    folder: Path, name: str, roles: Sequence[str], lifetime: datetime.timedelta, now: datetime.datetime
) -> str:
    """A JWT for the caller `name`, signed by this machine's issuer."""
    import jwt

    ensure_files(folder)
    claims: Mapping[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": _checked(name),
        "roles": list(roles),
        "iat": now,
        "exp": now + lifetime,
    }
    return jwt.encode(dict(claims), (folder / "issuer.key").read_bytes(), "ES256", {"kid": "laptop"})


def _make_issuer(folder: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    point = key.public_key().public_numbers()
    x, y = (base64.urlsafe_b64encode(n.to_bytes(32)).rstrip(b"=").decode() for n in (point.x, point.y))
    public = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "laptop", "x": x, "y": y}
    write_private(folder / "issuer.key", secret)
    write_private(folder / "jwks.json", json.dumps({"keys": [public]}, indent=2).encode())


_NOBODY = "nobody"
"""Stands where there is no key yet: the filter wants one."""


def _write_keys(folder: Path, keys: Mapping[str, str]) -> None:
    """Envoy's discovery file: a request with an x-api-key goes to the filter, another passes it by."""
    credentials = [{"client": client, "key": key} for client, key in sorted(keys.items())]
    check = {
        "@type": f"{_EXTENSIONS}.filters.http.api_key_auth.v3.ApiKeyAuth",
        "credentials": credentials or [{"client": _NOBODY, "key": secrets.token_urlsafe(32)}],
        "key_sources": [{"header": KEY_HEADER}],
        "forwarding": {"header": CALLER_HEADER, "hide_credentials": True},
    }
    has_key = {
        "single_predicate": {
            "input": {
                "name": "request-headers",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
                    "header_name": KEY_HEADER,
                },
            },
            "value_match": {"safe_regex": {"google_re2": {}, "regex": ".*"}},
        }
    }
    skip = {
        "name": "skip",
        "typed_config": {
            "@type": f"{_EXTENSIONS}.filters.common.matcher.action.v3.SkipFilter",
        },
    }
    matcher = {
        "matcher_list": {"matchers": [{"predicate": {"not_matcher": has_key}, "on_match": {"action": skip}}]}
    }
    resource = {
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "name": "hounsfield.api_keys",
        "typed_config": {
            "@type": f"{_EXTENSIONS}.common.matching.v3.ExtensionWithMatcher",
            "xds_matcher": matcher,
            "extension_config": {"name": "envoy.filters.http.api_key_auth", "typed_config": check},
        },
    }
    write_private(folder / "api-keys.json", json.dumps({"resources": [resource]}, indent=2).encode())


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or name == _NOBODY:
        raise ConfigError(
            f"the caller's name {name!r} cannot be used: 1 to 64 of letters, digits, dot, dash and underline"
        )
    return name
