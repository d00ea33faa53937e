"""The inference log as CloudEvents: a thread that follows the log and posts each record to a sink.

It reads what is already on the disk and keeps its own place in a cursor file, so a sink that is slow,
broken or gone delays no prediction and loses none: the backlog grows, and is delivered when the sink is
back. Order is the chain's. Delivery is at least once: after a kill the last batch may come again, with the
same ids.

CloudEvents 1.0, JSON batch format: `id` is the record's chain hash, `sequence` (the extension of that name)
its place, `type` `dev.hounsfield.<kind>.v1`, and `data` the record as it is in the log.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3

from hounsfield.audit.chain import record_bytes, record_of
from hounsfield.audit.reader import Cursor, backlog, lines
from hounsfield.errors import AuditError, ConfigError

CONTENT_TYPE = "application/cloudevents-batch+json; charset=utf-8"
CURSOR_FILE = "sink.cursor"


class Sink:
    """Posts the records of the log in `folder` to `url`, from where an earlier process of the folder stopped.

    `source` is the events' source, a URI reference such as `/models/opacity/versions/3`. A batch is
    `batch_records` at most, about 4 KB each. An answer other than 2xx, or none within `timeout_s`, is an
    error: the batch is tried again after `wait_s`, and twice as long each time up to `longest_wait_s`. A
    batch that is too large for the sink (413) is halved. Never raises after it has started: `backlog()`,
    `errors`, `last_error` and `missed` (records that were purged before the sink had them) say how it goes.
    """

    def __init__(
        self,
        folder: Path,
        url: str,
        *,
        source: str = "/hounsfield",
        batch_records: int = 100,
        timeout_s: float = 10.0,
        wait_s: float = 0.5,
        longest_wait_s: float = 60.0,
        poll_s: float = 0.2,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"sink URL {url!r} is not an http or https address")
        self.errors = 0
        self.missed = 0
        self.last_error = ""
        self._folder, self._url, self._source = folder, url, source
        self._batch_records, self._timeout_s, self._poll_s = batch_records, timeout_s, poll_s
        self._wait_s, self._longest_wait_s = wait_s, longest_wait_s
        self._cursor_path = folder / CURSOR_FILE
        self._cursor = Cursor.load(self._cursor_path)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cloudevents-sink", daemon=True)
        self._thread.start()

    def backlog(self) -> int:
        """Records on the disk that the sink has not taken yet."""
        try:
            return backlog(self._folder, self._cursor)
        except AuditError:  # HEAD is damaged: the log itself says so, a metric need not
            return 0

    def close(self, timeout_s: float = 5.0) -> bool:
        """Send what waits as long as the sink takes it, for `timeout_s` at most; returns whether all was
        sent.

        Close the log first. What is left is sent by the next process that is given this folder.
        """
        self._stop.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and self.backlog() == 0

    def _run(self) -> None:
        wait_s, limit = self._wait_s, self._batch_records
        with requests.Session() as session:
            while True:
                try:
                    batch = list(islice(lines(self._folder, self._cursor), limit))
                    status = self._post(session, batch) if batch else 200
                except AuditError as error:
                    self._failed(str(error))
                    status = 0
                except (requests.RequestException, OSError) as error:
                    self._failed(f"the sink does not answer: {type(error).__name__}")
                    status = 0
                if 200 <= status < 300:
                    wait_s = self._wait_s
                    if batch:
                        self.missed += batch[0][1].count - self._cursor.count - 1
                        self._taken(batch[-1][1])
                    elif self._stop.wait(self._poll_s):
                        return
                elif status == 413 and limit > 1:
                    limit = max(1, len(batch) // 2)
                else:
                    # Not all of a fleet at the same moment, when their sink comes back.
                    if self._stop.wait(wait_s * random.uniform(0.5, 1.0)):  # noqa: S311
                        return
                    wait_s = min(2 * wait_s, self._longest_wait_s)

    def _post(self, session: requests.Session, batch: list[tuple[bytes, Cursor]]) -> int:
        body = b"[" + b",".join(self._event(line, after) for line, after in batch) + b"]"
        # stream: the body of the answer is of no interest, however long it is.
        with session.post(
            self._url,
            data=body,
            headers={"Content-Type": CONTENT_TYPE},
            timeout=self._timeout_s,
            allow_redirects=False,
            stream=True,
        ) as answer:
            if not 200 <= answer.status_code < 300:
                self._failed(f"the sink answered {answer.status_code}")
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                answer.raw.read(4096)  # a short body is read to its end, so that the connection serves again
            return answer.status_code

    def _event(self, line: bytes, after: Cursor) -> bytes:
        record = record_of(line)
        attributes = {
            "specversion": "1.0",
            "id": after.hash,
            "source": self._source,
            "type": f"dev.hounsfield.{record.get('kind', 'record')}.v1",
            "time": record.get("time"),
            "sequence": f"{after.count - 1:020d}",
            "datacontenttype": "application/json",
        }
        head = json.dumps({name: value for name, value in attributes.items() if value is not None})
        return head[:-1].encode() + b',"data":' + record_bytes(line) + b"}"

    def _taken(self, cursor: Cursor) -> None:
        self._cursor = cursor
        try:
            cursor.save(self._cursor_path)
        except OSError as error:  # the batch may come again after a restart; it does not stop the delivery
            self._failed(f"the sink's cursor cannot be saved: {error.strerror}")

    def _failed(self, what: str) -> None:
        self.errors += 1
        self.last_error = what
