"""A backup is proven by what comes back: every byte and every chain; what was altered is found."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from mlflow import MlflowClient

from hounsfield.audit import log
from hounsfield.audit.segments import Writer
from hounsfield.backup.backup import drill, registry_of, restore, write
from hounsfield.cli.main import main
from hounsfield.errors import AuditError, ConfigError

NIGHT = datetime(2026, 11, 21, 2, tzinfo=UTC)
REGISTRY = [{"name": "opacity", "aliases": {"champion": "3"}, "versions": []}]


@pytest.fixture
def home(tmp_path):
    """Two pods' logs of 30 and 3 records, and a ledger of two."""
    for pod, records in (("stable-1", 30), ("canary-1", 3)):
        writer = Writer(tmp_path / "home/log" / pod, segment_bytes=1000)
        for number in range(records):
            writer.commit([json.dumps({"n": number, "time": NIGHT.isoformat()}).encode()])
        writer.close()
    for number in range(2):
        log.append(tmp_path / "home/ledger.jsonl", {"n": number})
    return tmp_path / "home"


def backup(home, now=NIGHT):
    return write(str(home.parent / "store"), home / "log", home / "ledger.jsonl", REGISTRY, now)


def test_what_comes_back_is_what_was_there(home, tmp_path):
    assert backup(home) == "20261121T020000Z"
    assert restore(str(tmp_path / "store"), tmp_path / "back") == "20261121T020000Z"
    here = {
        path.relative_to(home / "log"): path.read_bytes()
        for path in (home / "log").rglob("*")
        if path.is_file()
    }
    back = tmp_path / "back/logs"
    assert {path.relative_to(back): path.read_bytes() for path in back.rglob("*") if path.is_file()} == here
    assert (tmp_path / "back/ledger.jsonl").read_bytes() == (home / "ledger.jsonl").read_bytes()
    assert json.loads((tmp_path / "back/registry.json").read_text()) == REGISTRY


def test_a_drill_counts_and_verifies_every_record_and_leaves_nothing(home, tmp_path):
    backup(home)
    done = drill(str(tmp_path / "store"), NIGHT + timedelta(hours=5))
    assert done.records == {"canary-1": 3, "stable-1": 30, "ledger": 2}
    assert (done.age_h, done.models) == (5.0, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "store"]


def test_a_night_sends_only_what_the_day_wrote(home, tmp_path):
    backup(home)
    before = set((tmp_path / "store/objects").iterdir())
    writer = Writer(home / "log/stable-1", segment_bytes=1000)
    writer.commit([b'{"n":30,"time":"2026-11-21T09:00:00+00:00"}'])
    writer.close()
    backup(home, NIGHT + timedelta(days=1))
    assert len(set((tmp_path / "store/objects").iterdir()) - before) == 2  # the last segment, and HEAD
    assert drill(str(tmp_path / "store"), NIGHT + timedelta(days=1)).records["stable-1"] == 31


def test_an_altered_object_and_a_missing_one_are_found(home, tmp_path):
    backup(home)
    victim = next(path for path in (tmp_path / "store/objects").iterdir() if b'"n": 7' in path.read_bytes())
    content = victim.read_bytes()
    victim.write_bytes(content.replace(b'"n": 7', b'"n": 8'))
    with pytest.raises(AuditError, match="is not what was written"):
        drill(str(tmp_path / "store"), NIGHT)
    victim.unlink()
    with pytest.raises(AuditError, match=r"lacks logs/stable-1/0{10}"):
        restore(str(tmp_path / "store"), tmp_path / "back")
    assert not (tmp_path / "back").exists()  # nothing half-written


@pytest.mark.parametrize("said", ['{"a": ', "[1]", '{"a": 1}', '{"../a": "0"}', '{"/etc/a": "0"}'])
def test_a_list_that_is_damaged_or_leads_out_of_the_folder_is_one_sentence(home, tmp_path, said, capsys):
    backup(home)
    (listed,) = (tmp_path / "store/backups").iterdir()
    listed.write_text(said)
    assert main(["backup", "drill", "--from", str(tmp_path / "store")]) == 2
    assert "is not what was written: restore the one before it" in capsys.readouterr().err
    assert not list(tmp_path.rglob("a"))


def test_a_log_that_was_tampered_with_before_the_backup_is_found_by_the_drill(home, tmp_path):
    segment = min((home / "log/stable-1").glob("*.jsonl"))
    segment.write_bytes(segment.read_bytes().replace(b'"n": 1,', b'"n": 9,'))
    backup(home)
    with pytest.raises(AuditError):
        drill(str(tmp_path / "store"), NIGHT)


def test_an_old_backup_and_none_at_all_are_failures(home, tmp_path):
    with pytest.raises(ConfigError, match="holds no backup"):
        drill(str(tmp_path / "nothing"), NIGHT)
    backup(home)
    with pytest.raises(AuditError, match="is 31 h old, more than 30"):
        drill(str(tmp_path / "store"), NIGHT + timedelta(hours=31))


def test_a_folder_that_is_there_is_never_written_into(home, tmp_path):
    backup(home)
    with pytest.raises(ConfigError, match="is there already"):
        restore(str(tmp_path / "store"), home)


def test_the_registry_comes_with_aliases_tags_and_digests(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("opacity")
    client.create_model_version("opacity", "s3://models/9f2c", tags={"package_digest": "9f2c"})
    client.set_registered_model_alias("opacity", "champion", "1")
    (model,) = registry_of(uri)
    assert {key: str(value) for key, value in model["aliases"].items()} == {"champion": "1"}
    (version,) = model["versions"]
    assert (version["source"], version["tags"]) == ("s3://models/9f2c", {"package_digest": "9f2c"})


def test_the_commands_write_and_drill(home, tmp_path, capsys):
    at = ["--home", str(home), "backup"]
    assert (
        main(
            [
                *at,
                "write",
                "--to",
                str(tmp_path / "store"),
                "--tracking-uri",
                f"sqlite:///{tmp_path / 'm.db'}",
            ]
        )
        == 0
    )
    assert main([*at, "drill", "--from", str(tmp_path / "store")]) == 0
    printed = capsys.readouterr().out
    assert "stable-1: 30 records, every one verified" in printed
    assert main([*at, "drill", "--from", str(tmp_path / "elsewhere")]) == 2
