"""Ask a served model about DICOM files, over one connection that is kept."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hounsfield.config import MODEL_NAME
from hounsfield.dicom.parsing import study_instance_uid
from hounsfield.errors import ConfigError, ServingError
from hounsfield.serving.wire import write_byte_elements

if TYPE_CHECKING:
    import requests

STUDY_HEADER = "x-hounsfield-study"
_WHAT_TO_DO = {
    401: "the gateway does not know you: name a file with a token or an API key (--token-file)",
    403: "you may not do that: ask who runs the gateway for the role",
    404: "is the model's name right, and is this Hounsfield's gateway?",
    413: "the file is too large for the server",
}


class AnsweredError(ServingError):
    """The server answered, and not with what it was asked for. `retry_after_s` is None when it said none."""

    def __init__(self, message: str, status: int, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


def study_token(source: bytes) -> str:
    """The study's token of a DICOM file: 16 hex digits of its StudyInstanceUID's SHA-256; '' without one.

    The gateway sends all requests of one token to one revision. The UID itself stays here.
    """
    uid = study_instance_uid(source)
    return hashlib.sha256(uid.encode()).hexdigest()[:16] if uid else ""


def read_credential(path: Path) -> str:
    """The token or API key in a file; ConfigError when there is none."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path} cannot be read as a token or an API key") from None
    if not text or len(text.split()) != 1:
        raise ConfigError(f"{path} must hold one token or one API key and nothing else")
    return text


class Client:
    """A server at `url`, for example `http://127.0.0.1:8080`; one thread's, for it keeps one connection.

    `credential` is a JWT or an API key. `ca_file` is the certificate by which a gateway is trusted that no
    authority has signed. Every method raises ServingError without an answer, AnsweredError for an error.
    """

    def __init__(
        self,
        url: str,
        model_name: str = MODEL_NAME,
        *,
        credential: str = "",
        ca_file: Path | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        import requests

        self.url, self.model_name, self.timeout_s = url.rstrip("/"), model_name, timeout_s
        # Named with each request: requests lets $REQUESTS_CA_BUNDLE override what a session trusts.
        self._trusted: str | bool = str(ca_file) if ca_file else True
        self._session = requests.Session()
        self._session.headers.update({**_authorization(credential), **(headers or {})})

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def predict(self, source: bytes, study: str | None = None) -> dict[str, Any]:
        """Send the bytes of one DICOM file by the binary extension and read the one answer.

        `study` is its `study_token`, where that is known already. Returns probability (float, or None when
        refused), label, review_required, refusal, model_name, model_version and the response's parameters.
        """
        raw = write_byte_elements([source])
        sizes = {"binary_data_size": len(raw)}
        tensor = {"name": "dicom", "datatype": "BYTES", "shape": [1], "parameters": sizes}
        head = json.dumps({"inputs": [tensor]}).encode()
        kind = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
        }
        path = f"/v2/models/{self.model_name}/infer"
        answer = self._post(path, head + raw, {**kind, **_study(source, study)})
        with _Ours(self.url + path):
            columns = {output["name"]: output["data"][0] for output in answer["outputs"]}
            return {
                **{name: columns[name] for name in ("probability", "label", "review_required", "refusal")},
                "model_name": answer["model_name"],
                "model_version": answer.get("model_version", ""),
                "parameters": answer.get("parameters", {}),
            }

    def explain(self, source: bytes, study: str | None = None) -> dict[str, Any]:
        """The explanation of one DICOM file; `overlay_png` holds the picture's bytes, None when refused."""
        body = json.dumps({"instances": [{"dicom": {"b64": base64.b64encode(source).decode()}}]}).encode()
        path = f"/v1/models/{self.model_name}:explain"
        answer = self._post(path, body, {"Content-Type": "application/json", **_study(source, study)})
        with _Ours(self.url + path):
            explanation = dict(answer["explanations"][0])
            picture = explanation["overlay_png"]
            return {**explanation, "overlay_png": base64.b64decode(picture["b64"]) if picture else None}

    def _post(self, path: str, body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
        import requests

        address = self.url + path
        try:
            response = self._session.post(
                address, data=body, headers=headers, timeout=self.timeout_s, verify=self._trusted
            )
        except requests.exceptions.SSLError:
            raise ServingError(
                f"{address} has a certificate that is not trusted: name its own with --ca-file"
            ) from None
        except requests.Timeout:
            raise ServingError(f"{address} did not answer within {self.timeout_s:g} s") from None
        except (requests.RequestException, OSError):  # OSError: the CA file cannot be read
            raise ServingError(
                f"{address} cannot be reached: is the stack up? See `hounsfield status`"
            ) from None
        if response.status_code != 200:
            raise _answered(address, response)
        with _Ours(address):
            return response.json()


def predict_file(
    url: str,
    path: Path,
    model_name: str = MODEL_NAME,
    *,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> dict[str, Any]:
    """The answer about the DICOM file at `path` from the server at `url`; see `Client.predict`."""
    with Client(url, model_name, headers=headers, timeout_s=timeout_s) as client:
        return client.predict(read_file(path))


def predict_bytes(
    url: str,
    source: bytes,
    model_name: str = MODEL_NAME,
    *,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> dict[str, Any]:
    """One question over a connection of its own; see `Client.predict`."""
    with Client(url, model_name, headers=headers, timeout_s=timeout_s) as client:
        return client.predict(source)


def read_file(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ServingError(f"the file to predict cannot be read: {error.strerror}") from None


def _authorization(credential: str) -> dict[str, str]:
    if not credential:
        return {}
    if credential.count(".") == 2:  # header.claims.signature
        return {"Authorization": f"Bearer {credential}"}
    return {"x-api-key": credential}


def _study(source: bytes, study: str | None) -> dict[str, str]:
    token = study_token(source) if study is None else study
    return {STUDY_HEADER: token} if token else {}


def _answered(address: str, response: requests.Response) -> AnsweredError:
    status, retry_after_s = response.status_code, None
    try:
        said = str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        said = "no reason given"
    given = response.headers.get("Retry-After", "")
    if given.isdecimal():  # its other form, a date, no server of ours sends
        retry_after_s = float(given)
    advice = f"; {_WHAT_TO_DO[status]}" if status in _WHAT_TO_DO else ""
    if retry_after_s is not None:
        advice = f"; come back in {retry_after_s:g} s"
    return AnsweredError(f"{address} answered {status}: {said}{advice}", status, retry_after_s)


class _Ours:
    """What an answer of another form raises inside becomes a sentence."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, ValueError | LookupError | TypeError):
            raise ServingError(
                f"{self.address} answered in a form that is not ours: is it Hounsfield's?"
            ) from None
