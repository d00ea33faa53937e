"""Who may ask: Istio's objects as Envoy's filters, API keys, tokens and the certificate."""

import copy
import datetime
import json
import shutil
from pathlib import Path

import jwt
import pytest

from hounsfield.errors import ConfigError, PlatformError, RolloutError
from hounsfield.laptop import callers
from hounsfield.laptop.plan import Machine, Ports, make_plan
from hounsfield.laptop.render import OVERLAY, render, set_secure
from hounsfield.laptop.tls import ensure_certificate

MANIFESTS = Path(__file__).parents[3] / "manifests"
MACHINE = Machine(Ports(8080), Path("/repo"), "/venv/python", "/guard/python", Path("/home/of"))
NOW = datetime.datetime(2026, 11, 21, 14, 30, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    tree = Path(shutil.copytree(MANIFESTS, tmp_path_factory.mktemp("tree") / "tree"))
    assert set_secure(tree) is True
    assert set_secure(tree) is False
    return render(tree / OVERLAY)


@pytest.fixture
def objects(rendered):
    return copy.deepcopy(rendered)


def get(objects, kind):
    return next(item for item in objects if item["kind"] == kind)


def manager(objects):
    (chain,) = make_plan(objects, MACHINE).listener["filter_chains"]
    return chain["filters"][0]["typed_config"]


def filters(objects):
    return {item["name"]: item for item in manager(objects)["http_filters"]}


def test_the_caller_is_stripped_first_then_found_out_then_judged_then_counted(objects):
    assert list(filters(objects)) == [
        "hounsfield.strip_caller",
        "envoy.filters.http.jwt_authn",
        "hounsfield.api_keys",
        "envoy.filters.http.rbac",
        "hounsfield.caller_route",
        "hounsfield.ratelimit",
        "envoy.filters.http.router",
    ]


def test_without_the_components_nobody_is_asked_but_the_caller_is_stripped_all_the_same():
    objects = render(MANIFESTS / OVERLAY)
    assert list(filters(objects)) == ["hounsfield.strip_caller", "envoy.filters.http.router"]
    plan = make_plan(objects, MACHINE)
    assert (plan.asks_who, plan.door.scheme) == (False, "http")
    assert "transport_socket" not in plan.listener["filter_chains"][0]


def test_a_token_may_be_missing_but_not_wrong(objects):
    config = filters(objects)["envoy.filters.http.jwt_authn"]["typed_config"]
    assert config["providers"] == {
        "issuer": {
            "issuer": callers.ISSUER,
            "audiences": [callers.AUDIENCE],
            "local_jwks": {"filename": "/home/of/access/jwks.json"},
            "payload_in_metadata": "payload",
            "claim_to_headers": [{"header_name": "x-hounsfield-caller", "claim_name": "sub"}],
        }
    }
    either = [{"provider_name": "issuer"}, {"allow_missing": {}}]
    assert config["rules"] == [
        {"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": either}}}
    ]


def test_keys_written_into_the_object_are_taken_from_it(objects):
    get(objects, "RequestAuthentication")["spec"]["jwtRules"][0]["jwks"] = '{"keys": []}'
    provider = filters(objects)["envoy.filters.http.jwt_authn"]["typed_config"]["providers"]["issuer"]
    assert provider["local_jwks"] == {"inline_string": '{"keys": []}'}


def test_nobody_and_whoever_may_not_are_denied(objects):
    rules = filters(objects)["envoy.filters.http.rbac"]["typed_config"]["rules"]
    paths = [{"prefix": "/v1/"}, {"prefix": "/v2/"}, {"prefix": "/inference.GRPCInferenceService/"}]
    inference = {
        "and_rules": {
            "rules": [
                {"or_rules": {"rules": [{"url_path": {"path": path}} for path in paths]}},
                {"not_rule": {"or_rules": {"rules": [{"url_path": {"path": {"prefix": "/v2/health/"}}}]}}},
            ]
        }
    }
    known = {"header": {"name": "x-hounsfield-caller", "present_match": True}}
    by_name = {"header": {"name": "x-hounsfield-revision", "present_match": True}}
    text = {"string_match": {"exact": "operator"}}
    operator = {
        "filter": "envoy.filters.http.jwt_authn",
        "path": [{"key": "payload"}, {"key": "roles"}],
        "value": {"or_match": {"value_matchers": [{"list_match": {"one_of": text}}, text]}},
    }
    assert rules == {
        "action": "DENY",
        "policies": {
            "hounsfield[0]": {
                "permissions": [inference],
                "principals": [{"and_ids": {"ids": [{"not_id": {"or_ids": {"ids": [known]}}}]}}],
            },
            "hounsfield[1]": {
                "permissions": [inference],
                "principals": [
                    {
                        "and_ids": {
                            "ids": [
                                {"or_ids": {"ids": [by_name]}},
                                {
                                    "not_id": {
                                        "or_ids": {
                                            "ids": [{"sourced_metadata": {"metadata_matcher": operator}}]
                                        }
                                    }
                                },
                            ]
                        }
                    }
                ],
            },
        },
    }


def test_every_route_is_covered_by_the_policy(objects):
    """A path that the VirtualService routes and the policy does not name would be open to everyone."""
    (paths,) = {
        tuple(to["operation"]["paths"])
        for rule in get(objects, "AuthorizationPolicy")["spec"]["rules"]
        for to in rule["to"]
    }
    for route in get(objects, "VirtualService")["spec"]["http"]:
        for match in route["match"] if "route" in route else []:
            (uri,) = match["uri"].values()
            assert any(uri.startswith(path.removesuffix("*")) for path in paths), uri


def test_the_gateway_speaks_tls_1_2_or_later_only(objects):
    (chain,) = make_plan(objects, MACHINE).listener["filter_chains"]
    context = chain["transport_socket"]["typed_config"]["common_tls_context"]
    assert context["tls_params"] == {"tls_minimum_protocol_version": "TLSv1_2"}
    assert context["tls_certificate_sds_secret_configs"] == [{"name": "hounsfield-tls"}]


def test_the_pods_folder_of_keys_is_this_machines(objects):
    source = filters(objects)["hounsfield.api_keys"]["config_discovery"]["config_source"]
    assert source["path_config_source"] == {"path": "/home/of/access/api-keys.json"}


def change(kind, path, value):
    def apply(objects):
        item = get(objects, kind)
        for key in path[:-1]:
            item = item[key]
        item[path[-1]] = value

    return apply


RULE = ("spec", "jwtRules", 0)
POLICY = ("spec", "rules", 0)


@pytest.mark.parametrize(
    ("violation", "error", "named"),
    [
        (change("RequestAuthentication", (*RULE, "jwksUri"), "https://id/keys"), PlatformError, "jwksUri"),
        (change("RequestAuthentication", (*RULE, "fromCookies"), ["a"]), PlatformError, "fromCookies"),
        (change("RequestAuthentication", ("spec", "jwtRules"), []), PlatformError, "jwtRules: .* has 0"),
        (change("AuthorizationPolicy", ("spec", "action"), "CUSTOM"), PlatformError, "action is 'CUSTOM'"),
        (change("AuthorizationPolicy", (*POLICY, "from"), []), PlatformError, r"rules\[0\].from"),
        (
            change("AuthorizationPolicy", (*POLICY, "to", 0, "operation", "hosts"), ["a"]),
            PlatformError,
            "hosts",
        ),
        (
            change("AuthorizationPolicy", (*POLICY, "when", 0, "key"), "source.ip"),
            PlatformError,
            "'source.ip'",
        ),
        (
            change("Gateway", ("spec", "servers", 0, "tls", "mode"), "MUTUAL"),
            PlatformError,
            r"tls is .*MUTUAL",
        ),
        (
            change("Gateway", ("spec", "servers", 0, "tls", "caCertificates"), "a"),
            PlatformError,
            "caCertificates",
        ),
        (
            change("Gateway", ("spec", "servers", 0, "tls", "minProtocolVersion"), "TLSV1_0"),
            PlatformError,
            "minProtocolVersion is 'TLSV1_0'",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(objects, violation, error, named):
    violation(objects)
    with pytest.raises(error, match=named):
        make_plan(objects, MACHINE)


def test_api_keys_without_the_policy_that_asks_for_them_are_an_error(objects):
    objects = [item for item in objects if item["kind"] != "AuthorizationPolicy"]
    with pytest.raises(RolloutError, match="hounsfield-api-keys: there is no filter"):
        make_plan(objects, MACHINE)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_secrets_are_readable_by_their_owner_only(tmp_path):
    folder = tmp_path / "access"
    callers.make_api_key(folder, "pacs")
    callers.ensure_files(folder)
    certificate = ensure_certificate(tmp_path / "tls")
    assert mode(folder) == mode(tmp_path / "tls") == 0o700
    assert {mode(folder / name) for name in ("api-keys.json", "issuer.key")} == {0o600}
    assert mode(certificate.key) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["api-keys.json", "issuer.key", "jwks.json"]


def test_an_api_key_is_made_renewed_and_revoked(tmp_path):
    first = callers.make_api_key(tmp_path, "pacs")
    second = callers.make_api_key(tmp_path, "viewer")
    assert callers.api_keys(tmp_path) == {"pacs": first, "viewer": second}
    renewed = callers.make_api_key(tmp_path, "pacs")
    assert renewed != first
    callers.revoke_api_key(tmp_path, "viewer")
    assert callers.api_keys(tmp_path) == {"pacs": renewed}
    with pytest.raises(ConfigError, match="no API key of 'viewer'; there are keys of pacs"):
        callers.revoke_api_key(tmp_path, "viewer")
    callers.revoke_api_key(tmp_path, "pacs")
    assert callers.api_keys(tmp_path) == {}


@pytest.mark.parametrize("name", ["", "a b", "a,b", "nobody", "x" * 65, "-a", "é"])
def test_a_name_that_a_header_or_a_log_could_not_take_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="caller's name"):
        callers.make_api_key(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_token_says_who_and_until_when(tmp_path):
    token = callers.make_token(tmp_path, "anna", ["operator"], datetime.timedelta(hours=2), NOW)
    key = jwt.PyJWK(json.loads((tmp_path / "jwks.json").read_text())["keys"][0])
    claims = jwt.decode(
        token, key, ["ES256"], audience="hounsfield", options={"verify_exp": False, "verify_iat": False}
    )
    assert claims == {
        "iss": callers.ISSUER, "aud": "hounsfield", "sub": "anna", "roles": ["operator"],
        "iat": 1795271400, "exp": 1795278600,
    }  # fmt: skip


def test_a_certificate_is_made_once_for_this_machines_names(tmp_path):
    from cryptography import x509

    certificate = ensure_certificate(tmp_path)
    made = certificate.chain.read_bytes()
    assert ensure_certificate(tmp_path).chain.read_bytes() == made
    names = x509.load_pem_x509_certificate(made).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(a) for a in names.value.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_half_a_certificate_and_another_ones_key_are_refused(tmp_path):
    certificate = ensure_certificate(tmp_path / "one")
    other = ensure_certificate(tmp_path / "other")
    certificate.key.write_bytes(other.key.read_bytes())
    with pytest.raises(PlatformError, match=r"tls\.key is not the key of"):
        ensure_certificate(tmp_path / "one")
    certificate.key.unlink()
    with pytest.raises(PlatformError, match="must both be there"):
        ensure_certificate(tmp_path / "one")
