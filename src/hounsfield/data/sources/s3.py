"""Objects of an S3 bucket, by fsspec's s3fs."""

from __future__ import annotations

from collections.abc import Iterator

import s3fs
from botocore.exceptions import BotoCoreError, NoCredentialsError

from hounsfield.data.sources import FETCH_AHEAD, Item
from hounsfield.dicom.parsing import MAX_FILE_BYTES
from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.errors import ConfigError, DataError

_CONNECTION = {
    "connect_timeout": 10,
    "read_timeout": 60,
    "retries": {"max_attempts": 1},
    "max_pool_connections": 8 * FETCH_AHEAD,
}


class Bucket:
    """Objects below `s3://bucket/prefix/`.

    Credentials, region and endpoint are found where every AWS client looks for them: AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, ~/.aws/, a pod's web identity.
    """

    remote = True

    def __init__(self, uri: str) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket or "@" in bucket or ":" in bucket:
            raise ConfigError(
                "a bucket's address is s3://bucket/prefix; credentials come from the environment, not from it"
            )
        self.bucket = bucket
        self.prefix = prefix.rstrip("/") + "/" if prefix else ""
        self._files = s3fs.S3FileSystem(
            use_listings_cache=False, skip_instance_cache=True, max_concurrency=1, config_kwargs=_CONNECTION
        )
        self._files.retries = 3  # s3fs' own, with a pause that grows

    def items(self) -> Iterator[Item]:
        # Page by page: s3fs' own `find` keeps every entry of the bucket in memory.
        more: dict[str, str] = {}
        while True:
            page = self._ask("list_objects_v2", Bucket=self.bucket, Prefix=self.prefix, **more)
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):  # an empty object that consoles make for a folder
                    yield Item(entry["Key"], f"{entry['Size']} {entry['ETag']}", entry["Size"])
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def count(self) -> int:
        return sum(1 for _ in self.items())

    def fetch(self, item: Item) -> bytes:
        if item.size_bytes > MAX_FILE_BYTES:
            raise Refused(
                Reason.IMAGE_TOO_LARGE,
                f"the object has {item.size_bytes} bytes, the limit is {MAX_FILE_BYTES}",
            )
        if item.size_bytes == 0:
            return b""
        try:
            # As much as was listed and no more, whatever lies there by now.
            content = self._files.cat_file(f"{self.bucket}/{item.name}", start=0, end=item.size_bytes)
        except Exception as error:  # aiohttp's, botocore's and s3fs' errors: s3fs has tried again already
            raise Refused(Reason.UNREADABLE, f"{type(error).__name__} while reading the object") from None
        if len(content) != item.size_bytes:
            raise Refused(
                Reason.UNREADABLE, f"the transfer ended after {len(content)} of {item.size_bytes} bytes"
            )
        return content

    def _ask(self, method: str, **arguments: str) -> dict:
        try:
            return self._files.call_s3(method, **arguments)
        except NoCredentialsError:
            said = "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        except PermissionError:
            said = "access was denied: check the credentials and the bucket's policy"
        except FileNotFoundError:
            said = "there is no such bucket: check its name and AWS_ENDPOINT_URL"
        except BotoCoreError as error:
            said = f"the server does not answer ({type(error).__name__}): check AWS_ENDPOINT_URL"
        except OSError as error:
            said = f"the server answered with an error ({type(error).__name__})"
        raise DataError(f"bucket {self.bucket}: {said}") from None
