"""Sources over the network: a real S3 server (SeaweedFS), a real archive (Orthanc with DICOMweb)."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pandas as pd
import pytest
import requests

from hounsfield.data.examine import Rules
from hounsfield.data.fingerprint import file_sha256
from hounsfield.data.ingest import ingest
from hounsfield.data.sample import make_sample
from hounsfield.data.shard import read_shard
from hounsfield.data.sources import open_source
from hounsfield.dicom.quarantine import Reason
from hounsfield.errors import ConfigError, DataError
from tests.integration import seaweed
from tests.integration.seaweed import wait_for

RULES = Rules(b"a key for the tests only")
SECRET = "the-secret-of-the-source"
ORTHANC = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cutter:
    """A TCP proxy that ends a connection some bytes into the answer to a request that names `victim`."""

    def __init__(self, port):
        self.upstream, self.victim, self.allowed = port, b"", 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.upstream))
            left = [None]
            threading.Thread(target=self._requests, args=(client, server, left), daemon=True).start()
            threading.Thread(target=self._answers, args=(client, server, left), daemon=True).start()

    def _requests(self, client, server, left):
        while data := _receive(client):
            if self.victim and self.victim in data:
                left[0] = self.allowed
            server.sendall(data)
        _shut(server)

    def _answers(self, client, server, left):
        while data := _receive(server):
            if left[0] is not None:
                data, left[0] = data[: left[0]], left[0] - len(data)
            try:
                client.sendall(data)
            except OSError:
                break
            if left[0] is not None and left[0] <= 0:
                break
        _shut(client)
        _shut(server)


def _receive(end):
    try:
        return end.recv(65536)
    except OSError:
        return b""


def _shut(end):
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """60 good images and 8 others."""
    folder = tmp_path_factory.mktemp("sample") / "set"
    make_sample(folder, images=60, size_px=64)
    return folder


@pytest.fixture(scope="module")
def expected(sample, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected") / "set"
    return out, ingest(sample / "dicom", sample / "labels.csv", out, RULES)


def index_of(out):
    return pd.read_parquet(out / "index.parquet")


def assert_holds_no_secret(folder, capfd):
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert SECRET.encode() not in content, path.name
            assert b"127.0.0.1" not in content, path.name
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err


@pytest.fixture(scope="module")
def bucket_server(tmp_path_factory, sample):
    """(port, files by key): the sample in the bucket `scans` below `day one/`."""
    flags = ("-master.volumeSizeLimitMB=64", "-volume.max=20")
    with seaweed.running(tmp_path_factory.mktemp("s3"), "AKIATEST", SECRET, *flags) as port:
        yield port


@pytest.fixture
def aws(monkeypatch, tmp_path):
    """A function that points AWS clients to a port, with the right credentials and none of this machine's."""

    def use(port, **changes):
        values = {
            "AWS_ACCESS_KEY_ID": "AKIATEST",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
            **changes,
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)

    return use


@pytest.fixture
def bucket(bucket_server, aws, sample):
    """The sample's files in a bucket; the port of its server."""
    import s3fs

    aws(bucket_server)
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    if not files.exists("scans"):
        files.mkdir("scans")
        for path in (sample / "dicom").rglob("*.dcm"):
            files.pipe_file(f"scans/day one/{path.relative_to(sample)}", path.read_bytes())
    return bucket_server


def test_a_bucket_gives_the_same_data_set_as_the_folder(bucket, sample, expected, tmp_path, capfd):
    out, summary = expected
    assert ingest("s3://scans/day one", sample / "labels.csv", tmp_path / "set", RULES) == summary
    pd.testing.assert_frame_equal(index_of(tmp_path / "set"), index_of(out))
    assert_holds_no_secret(tmp_path / "set", capfd)


@pytest.mark.parametrize(
    ("uri", "changes", "said"),
    [
        ("s3://nothing-here/a", {}, "there is no such bucket"),
        ("s3://scans/day one", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "access was denied"),
        ("s3://scans/day one", {"AWS_ACCESS_KEY_ID": "AKIAOTHER"}, "access was denied"),
        ("s3://scans/day one", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no credentials"),
        ("s3://scans/day one", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "does not answer"),
        ("s3://scans/day two", {}, "is empty"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_one_sentence(uri, changes, said, bucket, aws, sample, tmp_path):
    aws(bucket, **changes)
    with pytest.raises(DataError, match=said) as error:
        ingest(uri, sample / "labels.csv", tmp_path / "set", RULES)
    assert SECRET not in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_credentials_in_an_address_are_refused_and_not_repeated():
    for uri in (f"s3://AKIATEST:{SECRET}@scans/a", f"dicomweb+https://reader:{SECRET}@pacs/dicom-web"):
        with pytest.raises(ConfigError, match="credentials come from") as error:
            open_source(uri)
        assert SECRET not in str(error.value)


def test_a_connection_that_breaks_off_costs_one_object_until_the_next_run(
    bucket, aws, sample, expected, tmp_path
):
    taken = set(index_of(expected[0])["sha256"])
    victim = next(path for path in (sample / "dicom").rglob("*.dcm") if file_sha256(path) in taken)
    cutter = Cutter(bucket)
    cutter.victim, cutter.allowed = victim.name.encode(), 2000
    files = sum(1 for _ in (sample / "dicom").rglob("*.dcm"))
    try:
        aws(cutter.port)
        # The label of the image that did not come is met by no file, and that is no error.
        broken = ingest(
            "s3://scans/day one", sample / "labels.csv", tmp_path / "set", RULES, store=tmp_path / "s"
        )
    finally:
        cutter.close()
    assert broken.by_reason["unreadable"] == 1
    assert broken.accepted + broken.quarantined == files
    aws(bucket)
    assert read_shard("s3://scans/day one", tmp_path / "s", RULES).examined == 1
    whole = ingest("s3://scans/day one", sample / "labels.csv", tmp_path / "set", RULES, store=tmp_path / "s")
    assert whole.accepted == 60
    assert "unreadable" not in whole.by_reason


def test_an_object_that_is_cut_short_is_quarantined_and_stays_so(bucket, sample, expected, tmp_path):
    import s3fs

    files = s3fs.S3FileSystem(skip_instance_cache=True)
    taken = set(index_of(expected[0])["sha256"])
    good = next(path for path in (sample / "dicom").rglob("*.dcm") if file_sha256(path) in taken)
    files.pipe_file("scans/cut/a.dcm", good.read_bytes()[: good.stat().st_size // 2])
    for examined in (1, 0):
        assert read_shard("s3://scans/cut", tmp_path, RULES).examined == examined
    record = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[1])
    assert record["refusal"][0] == Reason.TRUNCATED


@pytest.fixture(scope="module")
def archive(tmp_path_factory, sample):
    """The address of an Orthanc that holds the sample's files, and labels for those that it took."""
    if not (Path(ORTHANC).exists() and PLUGIN.exists()):
        pytest.skip("Orthanc and its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb) are not installed")
    folder, port = tmp_path_factory.mktemp("orthanc"), free_port()
    settings = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RegisteredUsers": {"reader": SECRET},
        "AuthenticationEnabled": True,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([ORTHANC, str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/system", process, folder / "log")
        stored = set()
        for path in (sample / "dicom").rglob("*.dcm"):
            answer = requests.post(
                f"{url}/instances", data=path.read_bytes(), auth=("reader", SECRET), timeout=20
            )
            if answer.ok:
                tags = f"{url}/instances/{answer.json()['ID']}/simplified-tags"
                stored.add(requests.get(tags, auth=("reader", SECRET), timeout=20).json()["SOPInstanceUID"])
        with (sample / "labels.csv").open(newline="") as stream:
            rows = [row for row in csv.reader(stream) if row[0] in stored | {"SOPInstanceUID"}]
        with (folder / "labels.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
        yield port, folder / "labels.csv", len(stored)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def netrc(monkeypatch, tmp_path_factory):
    path = tmp_path_factory.mktemp("home") / "netrc"
    path.write_text(f"machine 127.0.0.1 login reader password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(path))
    return path


def test_an_archive_gives_the_same_images_as_the_folder(archive, netrc, expected, tmp_path, capfd):
    port, labels, stored = archive
    source = f"dicomweb+http://127.0.0.1:{port}/dicom-web"
    summary = ingest(source, labels, tmp_path / "set", RULES, store=tmp_path / "store")
    assert summary.accepted == 60
    assert summary.accepted + summary.quarantined == stored
    # Byte for byte what was stored: the archive has not transcoded it.
    assert set(index_of(tmp_path / "set")["sha256"]) == set(index_of(expected[0])["sha256"])
    assert read_shard(source, tmp_path / "store", RULES).examined == 0
    assert_holds_no_secret(tmp_path, capfd)


def test_an_archive_is_asked_for_a_part_of_it(archive, netrc):
    port, _, stored = archive
    found = {
        kind: len(
            list(open_source(f"dicomweb+http://127.0.0.1:{port}/dicom-web?ModalitiesInStudy={kind}").items())
        )
        for kind in ("CR", "MR")
    }
    assert 0 < found["CR"] < stored
    assert found["MR"] == 0


def test_an_instance_that_breaks_off_is_unreadable_until_the_next_run(archive, netrc, tmp_path):
    port, _, stored = archive
    victim = next(open_source(f"dicomweb+http://127.0.0.1:{port}/dicom-web").items()).name.split("/")[2]
    cutter = Cutter(port)
    cutter.victim, cutter.allowed = f"instances/{victim} HTTP".encode(), 1500
    try:
        done = read_shard(f"dicomweb+http://127.0.0.1:{cutter.port}/dicom-web", tmp_path, RULES)
    finally:
        cutter.close()
    assert done.examined == stored
    records = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()[1:]]
    assert [record["refusal"][0] for record in records if record["again"]] == ["unreadable"]
    assert read_shard(f"dicomweb+http://127.0.0.1:{port}/dicom-web", tmp_path, RULES).examined == 1


def test_an_archive_that_goes_away_stops_the_run_which_goes_on_later(archive, netrc, tmp_path):
    port, _, stored = archive
    cutter = Cutter(port)
    cutter.victim, cutter.allowed = b"/series/", 100  # retrieving; searching goes through
    try:
        with pytest.raises(DataError, match="gone away: 20 objects in a row could not be read"):
            read_shard(f"dicomweb+http://127.0.0.1:{cutter.port}/dicom-web", tmp_path, RULES)
    finally:
        cutter.close()
    assert read_shard(f"dicomweb+http://127.0.0.1:{port}/dicom-web", tmp_path, RULES).examined == stored


@pytest.mark.parametrize(
    ("path", "home", "said"),
    [
        ("dicom-web", "/dev/null", "access was denied"),
        ("elsewhere", None, "no DICOMweb service at this path"),
    ],
)
def test_an_archive_that_cannot_be_used_is_one_sentence(
    path, home, said, archive, netrc, tmp_path, monkeypatch
):
    if home:
        monkeypatch.setenv("NETRC", home)
    with pytest.raises(DataError, match=said) as error:
        read_shard(f"dicomweb+http://127.0.0.1:{archive[0]}/{path}", tmp_path / "read", RULES)
    assert len(str(error.value).splitlines()) == 1


def test_a_token_is_read_from_its_file_and_sent(archive, tmp_path, monkeypatch):
    (tmp_path / "token").write_text(f"{SECRET}\n")
    monkeypatch.setenv("HOUNSFIELD_DICOMWEB_TOKEN_FILE", str(tmp_path / "token"))
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            client, _ = listener.accept()
            heard.append(client.recv(65536))
            client.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\nContent-Length: 2\r\n\r\n[]"
            )
            client.close()

        thread = threading.Thread(target=answer)
        thread.start()
        assert list(open_source(f"dicomweb+http://127.0.0.1:{listener.getsockname()[1]}/x").items()) == []
        thread.join()
    assert f"Authorization: Bearer {SECRET}".encode() in heard[0]
