"""Who is let in after `hounsfield up --secure`: TLS, tokens, API keys, roles and the rate limit."""

import base64
import collections
import contextlib
import copy
import datetime
import http.client
import json
import socket
import ssl
import time

import grpc
import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec

from hounsfield.errors import ServingError
from hounsfield.laptop import callers
from hounsfield.laptop.tls import ensure_certificate
from hounsfield.serving.client import AnsweredError, Client

METHOD = "/inference.GRPCInferenceService/ModelInfer"
HOUR = datetime.timedelta(hours=1)
WHO = "this needs a bearer token or the header x-api-key"


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@pytest.fixture
def access(secure_gateway):
    return secure_gateway.machine.access


@pytest.fixture
def get(secure_gateway):
    """GET a path of the gateway, over TLS that is verified."""
    with requests.Session() as session:

        def send(path: str = "/v2/models/opacity", method: str = "GET", **headers: str) -> requests.Response:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            trusted = str(secure_gateway.root / "tls" / "tls.crt")
            return session.request(
                method, secure_gateway.url + path, headers=names, timeout=5, verify=trusted
            )

        yield send


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def claims(**changed) -> dict:
    given = {"iss": callers.ISSUER, "aud": callers.AUDIENCE, "sub": "eve", "exp": now() + HOUR}
    return {**given, **changed}


def until(holds, timeout_s: float = 5.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, "it did not come to hold"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "path", ["/v2/models/opacity", "/v2/models/opacity/infer", "/v1/models/opacity:explain"]
)
def test_nobody_is_answered_401_by_every_door(get, path):
    answer = get(path, "POST")
    assert (answer.status_code, answer.json()) == (401, {"error": WHO})
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/json"


def test_health_is_open_to_probes(get):
    assert get("/v2/health/ready").status_code == 200


def test_a_valid_token_is_answered_and_the_server_is_told_who_but_not_the_token(get, access):
    answer = get(**bearer(callers.make_token(access, "anna", [], HOUR, now())))
    assert answer.status_code == 200
    assert answer.headers["x-seen-caller"] == "anna"
    assert answer.headers["x-seen-credentials"] == "False"


def test_a_token_that_is_wrong_in_any_way_is_401(get, access):
    own, other = (access / "issuer.key").read_bytes(), ec.generate_private_key(ec.SECP256R1())
    head = {"kid": "laptop"}
    right = jwt.encode(claims(), own, "ES256", head)
    assert get(**bearer(right)).status_code == 200
    alg_none = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "none", "typ": "JWT"}, {**claims(), "exp": int(time.time()) + 3600})
    )
    public = json.loads((access / "jwks.json").read_text())["keys"][0]["x"]
    wrong = {
        "another key's signature": jwt.encode(claims(), other, "ES256", head),
        "expired": jwt.encode(claims(exp=now() - HOUR), own, "ES256", head),
        "not valid yet": jwt.encode(claims(nbf=now() + HOUR), own, "ES256", head),
        "for somebody else": jwt.encode(claims(aud="another"), own, "ES256", head),
        "another issuer's": jwt.encode(claims(iss="https://other"), own, "ES256", head),
        "altered": right[:-20] + ("A" if right[-20] != "A" else "B") + right[-19:],
        "no algorithm": f"{alg_none}.",
        "the public key as an HMAC secret": jwt.encode(claims(), public, "HS256", head),
        "no token at all": "nonsense",
    }
    for what, token in wrong.items():
        answer = get(**bearer(token))
        assert answer.status_code == 401, what
        assert list(answer.json()) == ["error"], what


def test_asking_for_a_revision_by_name_takes_the_role_of_an_operator(get, access):
    reader = bearer(callers.make_token(access, "anna", ["reader"], HOUR, now()))
    operator = bearer(callers.make_token(access, "otto", ["reader", "operator"], HOUR, now()))
    key = callers.make_api_key(access, "archive")
    until(lambda: get(x_api_key=key).status_code == 200)
    refused = get(**reader, x_hounsfield_revision="canary")
    assert (refused.status_code, list(refused.json())) == (403, ["error"])
    assert get(x_api_key=key, x_hounsfield_revision="canary").status_code == 403
    assert get(**operator, x_hounsfield_revision="canary").text.startswith("canary")
    assert get(**reader).status_code == 200


def test_an_api_key_is_in_force_at_once_and_until_it_is_revoked(get, access):
    key = callers.make_api_key(access, "pacs")
    until(lambda: get(x_api_key=key).status_code == 200)
    answer = get(x_api_key=key)
    assert (answer.headers["x-seen-caller"], answer.headers["x-seen-credentials"]) == ("pacs", "False")
    assert get(x_api_key=key + "x").status_code == 401
    assert list(get(x_api_key="wrong").json()) == ["error"]
    callers.revoke_api_key(access, "pacs")
    until(lambda: get(x_api_key=key).status_code == 401)


def test_a_caller_who_names_himself_is_not_believed(get, access):
    assert get(x_hounsfield_caller="admin").status_code == 401
    token = bearer(callers.make_token(access, "anna", [], HOUR, now()))
    assert get(**token, x_hounsfield_caller="admin").headers["x-seen-caller"] == "anna"
    key = callers.make_api_key(access, "lung-station")
    until(lambda: get(x_api_key=key).status_code == 200)
    assert get(x_api_key=key, x_hounsfield_caller="admin").headers["x-seen-caller"] == "lung-station"


def get_in_a_row(gateway, headers: dict[str, str], count: int):
    """Status, headers and body of one GET after the other on one connection: a busy machine sends hundreds a
    second this way."""
    trust = ssl.create_default_context(cafile=gateway.root / "tls" / "tls.crt")
    connection = http.client.HTTPSConnection("127.0.0.1", gateway.ports.gateway, timeout=5, context=trust)
    with contextlib.closing(connection):
        for _ in range(count):
            connection.request("GET", "/v2/models/opacity", headers=headers)
            response = connection.getresponse()
            yield response.status, response.headers, response.read()


def test_a_caller_beyond_the_rate_is_429_and_another_is_not(secure_gateway, get, access):
    greedy = bearer(callers.make_token(access, "greedy", [], HOUR, now()))
    modest = bearer(callers.make_token(access, "modest", [], HOUR, now()))
    began_s = time.monotonic()
    answers = list(get_in_a_row(secure_gateway, greedy, 400))
    elapsed_s = time.monotonic() - began_s
    refused = [(headers, body) for status, headers, body in answers if status == 429]
    # The bucket holds 200 and gets 100 a second.
    assert len(answers) - len(refused) <= 200 + 100 * (elapsed_s + 1)
    assert refused
    headers, body = refused[0]
    assert list(json.loads(body)) == ["error"]
    assert headers["retry-after"] == "1"
    assert get(**modest).status_code == 200
    until(lambda: get(**greedy).status_code == 200)


def channel(gateway):
    certificate = (gateway.root / "tls" / "tls.crt").read_bytes()
    return grpc.secure_channel(
        f"127.0.0.1:{gateway.ports.gateway}", grpc.ssl_channel_credentials(certificate)
    )


def test_grpc_is_asked_the_same(secure_gateway, access):
    key = callers.make_api_key(access, "tomograph")
    with channel(secure_gateway) as open_channel:
        call = open_channel.unary_unary(METHOD)
        with pytest.raises(grpc.RpcError) as nobody:
            call(b"", timeout=5)
        assert (nobody.value.code(), nobody.value.details()) == (grpc.StatusCode.UNAUTHENTICATED, WHO)

        def answered() -> bool:
            with contextlib.suppress(grpc.RpcError):
                return call(b"", timeout=5, metadata=[("x-api-key", key)]) == b"stable"
            return False

        until(answered)
        seen = collections.Counter()
        for _ in range(400):
            try:
                call(b"", timeout=5, metadata=[("x-api-key", key)])
                seen["OK"] += 1
            except grpc.RpcError as error:
                seen[error.code().name] += 1
        assert set(seen) == {"OK", "RESOURCE_EXHAUSTED"}


def handshake(gateway, version: ssl.TLSVersion) -> str:
    context = ssl.create_default_context(cafile=str(gateway.root / "tls" / "tls.crt"))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # so that this side would speak an old version
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", gateway.ports.gateway), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as wrapped,
    ):
        return wrapped.version()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tls_1_2_and_1_3_only(secure_gateway):
    assert handshake(secure_gateway, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert handshake(secure_gateway, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
        handshake(secure_gateway, ssl.TLSVersion.TLSv1_1)


def test_without_tls_nothing_is_answered(secure_gateway):
    with pytest.raises(requests.ConnectionError):
        requests.get(secure_gateway.url.replace("https", "http") + "/v2/health/ready", timeout=5)


def test_a_renewed_certificate_is_taken_up_while_running(secure_gateway, tmp_path):
    folder = secure_gateway.root / "tls"
    renewed = ensure_certificate(tmp_path)
    wanted = ssl.PEM_cert_to_DER_cert(renewed.chain.read_text())

    def served() -> bytes:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", secure_gateway.ports.gateway), timeout=5) as raw,
            context.wrap_socket(raw) as wrapped,
        ):
            return wrapped.getpeercert(binary_form=True)

    assert served() != wanted
    renewed.key.replace(folder / "tls.key")
    renewed.chain.replace(folder / "tls.crt")
    until(lambda: served() == wanted)


def test_the_client_says_what_is_missing(secure_gateway, access):
    trusted = secure_gateway.root / "tls" / "tls.crt"
    with Client(secure_gateway.url) as client, pytest.raises(ServingError, match="--ca-file"):
        client.predict(b"x")
    with (
        Client(secure_gateway.url, ca_file=trusted) as client,
        pytest.raises(AnsweredError, match="--token-file"),
    ):
        client.predict(b"x")
    token = callers.make_token(access, "anna", [], HOUR, now())
    with (
        Client(secure_gateway.url, ca_file=trusted, credential=token) as client,
        pytest.raises(ServingError, match="in a form that is not ours"),  # the tiny upstream answered
    ):
        client.predict(b"x")


def test_a_user_that_goes_first_is_known_by_token_or_key_and_by_nothing_else(secure_gateway, get, access):
    objects = copy.deepcopy(secure_gateway.objects)
    (service,) = [item for item in objects if item["kind"] == "VirtualService"]
    for route in service["spec"]["http"]:
        if route["name"].endswith("-first"):
            route["match"][0]["headers"] = {"x-hounsfield-caller": {"regex": "ada|reading-room[.]1"}}
            route["route"][0]["weight"], route["route"][1]["weight"] = 0, 100
    secure_gateway.move(100, 0, objects)
    key = callers.make_api_key(access, "reading-room.1")
    until(lambda: get(x_api_key=key).status_code == 200)
    tokens = {name: callers.make_token(access, name, [], HOUR, now()) for name in ("ada", "eve")}
    assert get(**bearer(tokens["ada"])).headers["x-hounsfield-revision"] == "canary"
    assert get(x_api_key=key).headers["x-hounsfield-revision"] == "canary"
    assert get(**bearer(tokens["eve"])).headers["x-hounsfield-revision"] == "stable"
    forged = get(**bearer(tokens["eve"]), x_hounsfield_caller="ada")
    assert forged.headers["x-hounsfield-revision"] == "stable"
    secure_gateway.move(100, 0)
