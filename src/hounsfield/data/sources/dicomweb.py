"""Instances of a PACS, by DICOMweb: QIDO-RS lists (PS3.18 10.6), WADO-RS retrieves (PS3.18 10.4)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import requests
from dicomweb_client import DICOMwebClient

from hounsfield.data.sources import FETCH_AHEAD, Item
from hounsfield.dicom.parsing import MAX_FILE_BYTES
from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.errors import ConfigError, DataError

TOKEN_FILE = "HOUNSFIELD_DICOMWEB_TOKEN_FILE"  # noqa: S105  the name of a variable
STUDIES_A_PAGE = 100
TIMEOUT_S = (10, 60)
"""To connect, and between two pieces of an answer."""

# QIDO-RS answers in DICOM JSON (PS3.18 F): tags, not keywords.
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"

# Its lines hold the patients' UIDs, and what the server says in a Warning header.
logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL)


class Archive:
    """Instances of `http(s)://host/path`; what follows `?` is handed to QIDO-RS' search for studies.

    Basic authentication comes from ~/.netrc (or the file that NETRC names), a bearer token from the file that
    HOUNSFIELD_DICOMWEB_TOKEN_FILE names, a private authority from REQUESTS_CA_BUNDLE.
    """

    remote = True

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if not parts.hostname or parts.username or parts.password:
            raise ConfigError(
                "an archive's address is dicomweb+https://host/path; credentials come from ~/.netrc or "
                f"{TOKEN_FILE}, never from it"
            )
        self.filters = dict(parse_qsl(parts.query))
        self.base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self.host = parts.hostname
        self._session = requests.Session()
        pool = requests.adapters.HTTPAdapter(pool_maxsize=8 * FETCH_AHEAD, max_retries=2)
        self._session.mount("http://", pool)
        self._session.mount("https://", pool)
        token_file = os.environ.get(TOKEN_FILE)
        if token_file:
            self._session.auth = _bearer(token_file)
        self._client = DICOMwebClient(
            self.base, session=self._session, permissive_uid=True, timeout=TIMEOUT_S
        )
        self._client.set_http_retry_params(max_attempts=3, wait_exponential_multiplier=500)

    def items(self) -> Iterator[Item]:
        offset, first = 0, None
        while True:
            page = self._ask(
                self._client.search_for_studies,
                (_STUDY,),
                limit=STUDIES_A_PAGE,
                offset=offset,
                search_filters=dict(self.filters),
            )
            if not page:
                return
            if page[0] == first:
                raise DataError(f"archive {self.host}: its search knows no offset: it sends one page again")
            first, offset = page[0], offset + len(page)
            for (study,) in page:
                found = self._ask(
                    self._client.search_for_instances, (_SERIES, _INSTANCE), study_instance_uid=study
                )
                # An instance does not change under its UID (PS3.3 C.12.1.1.1), so that it needs no version.
                yield from (Item(f"{study}/{series}/{instance}", "") for series, instance in sorted(found))

    def count(self) -> None:
        return None

    def fetch(self, item: Item) -> bytes:
        study, series, instance = item.name.split("/")
        url = f"{self.base}/studies/{study}/series/{series}/instances/{instance}"
        # As it was stored: another transfer syntax is the archive's re-encoding. The client would parse the
        # answer in this process, whatever its size.
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        try:
            with self._session.get(url, headers={"Accept": accept}, timeout=TIMEOUT_S, stream=True) as answer:
                if answer.status_code != 200:
                    raise Refused(Reason.UNREADABLE, f"the archive answered with status {answer.status_code}")
                body = bytearray()
                for piece in answer.iter_content(2**20):
                    body += piece
                    if len(body) > MAX_FILE_BYTES:
                        raise Refused(
                            Reason.IMAGE_TOO_LARGE, f"the archive sends more than {MAX_FILE_BYTES} bytes"
                        )
                kind = answer.headers.get("Content-Type", "")
        except (requests.RequestException, OSError) as error:
            raise Refused(Reason.UNREADABLE, f"{type(error).__name__} while reading the instance") from None
        return _first_part(bytes(body), kind)

    def _ask(self, search: Callable, tags: tuple[str, ...], **arguments: object) -> list[tuple[str, ...]]:
        """The values of `tags` in each result of a search."""
        try:
            found = search(**arguments)
            return [tuple(str(one[tag]["Value"][0]) for tag in tags) for one in found]
        except requests.HTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                said = f"access was denied (status {status}): check ~/.netrc or {TOKEN_FILE}"
            elif status == 404:
                said = "there is no DICOMweb service at this path (status 404): check the address"
            else:
                said = f"the search was refused (status {status})"
        except (requests.RequestException, OSError) as error:
            said = f"it does not answer ({type(error).__name__}): check the address and the network"
        except (ValueError, LookupError, TypeError, AttributeError):
            said = "its answer to a search is not DICOM JSON: check the address"
        raise DataError(f"archive {self.host}: {said}") from None


def _bearer(token_file: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """An authentication for requests that reads the file each time, for tokens are renewed there."""

    def authenticate(request: requests.PreparedRequest) -> requests.PreparedRequest:
        try:
            token = Path(token_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"{TOKEN_FILE}: the file cannot be read: {error.strerror}") from None
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    return authenticate


def _first_part(body: bytes, content_type: str) -> bytes:
    """The only part of a multipart message (RFC 2046 5.1), or the body where a server sends it bare."""
    kind, *parameters = [piece.strip() for piece in content_type.split(";")]
    if kind.lower() != "multipart/related":
        return body
    boundary = next(
        (p.partition("=")[2].strip('"') for p in parameters if p.lower().startswith("boundary=")), ""
    )
    head, found, rest = body.partition(b"\r\n\r\n")
    end = rest.find(b"\r\n--" + boundary.encode())
    if not boundary or not found or boundary.encode() not in head or end < 0:
        raise Refused(Reason.UNREADABLE, "the archive's multipart answer is malformed or breaks off")
    return rest[:end]
