"""A package is refused, by name, unless the holder of the key signed exactly the files that are there."""

import json
import shutil
import stat
import subprocess
import sys

import pytest

from hounsfield.errors import ConfigError, PackageError
from hounsfield.package.package import load_package
from hounsfield.package.sign import ensure_keys, sign_package, signing_key
from hounsfield.package.store import publish


def command_line(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return ensure_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def foreign_keys(tmp_path_factory):
    return ensure_keys(tmp_path_factory.mktemp("foreign"))


@pytest.fixture(scope="module")
def signed(write, keys, tmp_path_factory):
    return write(tmp_path_factory.mktemp("signed"), signing_key=keys[0])


@pytest.fixture
def copy(signed, tmp_path):
    return shutil.copytree(signed.path, tmp_path / "copy")


def rewrite_manifest(folder):
    """What someone who alters a package would do next: a manifest that agrees with the altered files."""
    from hounsfield.package.package import MANIFEST, describe_files

    files = {name: entry for name, entry in describe_files(folder).items() if name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps({"files": files}))


def test_keys_are_made_once_and_the_private_one_is_its_owners(tmp_path):
    private, public = ensure_keys(tmp_path / "keys")
    made = private.read_bytes(), public.read_bytes()
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    public.unlink()
    assert ensure_keys(tmp_path / "keys") == (private, public)
    assert (private.read_bytes(), public.read_bytes()) == made
    assert sorted(file.name for file in (tmp_path / "keys").iterdir()) == ["signing.key", "signing.pub"]


def test_a_signed_package_is_loaded_with_its_key_and_without(signed, keys):
    assert load_package(signed.path, keys[1]).digest == signed.digest
    assert load_package(signed.path).digest == signed.digest


def test_the_signature_is_no_part_of_the_digest(write, signed, tmp_path):
    assert write(tmp_path).digest == signed.digest


def test_an_unsigned_package_is_refused_where_a_key_is_asked_for(copy, keys):
    (copy / "model.sig").unlink()
    with pytest.raises(PackageError, match=r"copy is not signed: it holds no model\.sig"):
        load_package(copy, keys[1])


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "detectors/state/x.bin"])
def test_a_changed_file_is_refused_by_name(copy, keys, name):
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(PackageError, match=f"{name} is not the file that was signed"):
        load_package(copy, keys[1])


def test_a_changed_file_is_refused_though_the_manifest_agrees_with_it(copy, keys):
    record = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**record, "threshold": 0.99}))
    rewrite_manifest(copy)
    assert load_package(copy).model.threshold == 0.99  # the manifest alone protects from accidents only
    with pytest.raises(PackageError, match=r"(manifest|model)\.json is not the file that was signed"):
        load_package(copy, keys[1])


def test_a_missing_file_is_refused_by_name(copy, keys):
    (copy / "profile.json").unlink()
    with pytest.raises(PackageError, match=r"profile\.json was signed and is missing"):
        load_package(copy, keys[1])


@pytest.mark.parametrize("name", ["extra.pkl", ".gitignore", ".git/hook", "detectors/model.sig"])
def test_an_extra_file_is_refused_by_name(copy, keys, name):
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_bytes(b"")
    rewrite_manifest(copy)
    with pytest.raises(PackageError, match=rf"{name} was never signed"):
        load_package(copy, keys[1])


def test_a_package_signed_with_a_foreign_key_is_refused(copy, keys, foreign_keys):
    sign_package(copy, foreign_keys[0])
    assert load_package(copy, foreign_keys[1])
    with pytest.raises(PackageError, match=r"model\.sig was not made with the key of .*signing\.pub"):
        load_package(copy, keys[1])


def test_a_foreign_signature_that_claims_our_key_is_refused(copy, signed, keys, foreign_keys):
    sign_package(copy, foreign_keys[0])
    bundle = json.loads((copy / "model.sig").read_text())
    ours = json.loads((signed.path / "model.sig").read_text())
    bundle["verificationMaterial"] = ours["verificationMaterial"]
    (copy / "model.sig").write_text(json.dumps(bundle))
    with pytest.raises(PackageError, match=r"model\.sig was not made with the key"):
        load_package(copy, keys[1])


def test_the_signature_of_another_package_is_refused(write, copy, keys, tmp_path):
    other = write(
        tmp_path / "store", lineage={"git_commit": "other", "data_fingerprint": "0"}, signing_key=keys[0]
    )
    shutil.copyfile(other.path / "model.sig", copy / "model.sig")
    with pytest.raises(PackageError, match="is not the file that was signed"):
        load_package(copy, keys[1])


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"dsseEnvelope": {"payload": "e30="}}', b"[" * 100_000]
)
def test_a_file_that_is_no_signature_is_refused(copy, keys, content):
    (copy / "model.sig").write_bytes(content)
    with pytest.raises(PackageError, match=r"model\.sig is not a signature of model-signing"):
        load_package(copy, keys[1])


def test_a_signature_without_its_own_parts_is_refused(copy, keys):
    bundle = json.loads((copy / "model.sig").read_text())
    for part in ("mediaType", "verificationMaterial"):
        (copy / "model.sig").write_text(json.dumps({k: v for k, v in bundle.items() if k != part}))
        with pytest.raises(PackageError, match=r"model\.sig"):
            load_package(copy, keys[1])
    bundle["dsseEnvelope"]["signatures"] = []
    (copy / "model.sig").write_text(json.dumps(bundle))
    with pytest.raises(PackageError, match=r"model\.sig"):
        load_package(copy, keys[1])


def test_a_key_that_cannot_be_used_is_named(signed, keys, tmp_path):
    with pytest.raises(ConfigError, match=r"none\.pub cannot be read"):
        load_package(signed.path, tmp_path / "none.pub")
    (tmp_path / "text.pub").write_text("no key")
    with pytest.raises(ConfigError, match=r"text\.pub is not an EC public key"):
        load_package(signed.path, tmp_path / "text.pub")
    with pytest.raises(ConfigError, match=r"signing\.pub is not an unencrypted EC private key"):
        sign_package(signed.path, keys[1])
    with pytest.raises(ConfigError, match="no signing key was given"):
        signing_key(None)


def test_the_store_keeps_the_signature(signed, keys, tmp_path):
    uri = publish(signed, str(tmp_path / "store"))
    stored = tmp_path / "store" / signed.digest
    assert uri == stored.as_uri()
    assert load_package(stored, keys[1]).digest == signed.digest


def test_a_copy_in_the_store_takes_over_a_newer_signature(write, signed, keys, foreign_keys, tmp_path):
    publish(write(tmp_path / "unsigned"), str(tmp_path / "store"))
    publish(write(tmp_path / "foreign", signing_key=foreign_keys[0]), str(tmp_path / "store"))
    publish(signed, str(tmp_path / "store"))
    assert load_package(tmp_path / "store" / signed.digest, keys[1])
    assert [file.name for file in (tmp_path / "store").iterdir()] == [signed.digest]


def test_a_remote_store_keeps_the_signature(signed, keys, tmp_path):
    import fsspec

    publish(signed, "memory://models")
    fsspec.filesystem("memory").get(f"/models/{signed.digest}", str(tmp_path / "fetched"), recursive=True)
    assert load_package(tmp_path / "fetched", keys[1]).digest == signed.digest


def test_a_signed_package_under_links_is_read(signed, keys, tmp_path):
    # KServe's storage initializer links a volume's files into /mnt/models.
    for file in signed.path.rglob("*"):
        if file.is_file():
            link = tmp_path / "models" / file.relative_to(signed.path)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    assert load_package(tmp_path / "models", keys[1]).digest == signed.digest


def test_the_command_line_of_model_signing_verifies_our_package(signed, copy, keys):
    told = ["--signature", copy / "model.sig", "--public_key", keys[1]]
    assert command_line("verify", "key", copy, *told).returncode == 0
    (copy / "metrics.json").write_text("{}")
    refused = command_line("verify", "key", copy, *told)
    assert refused.returncode != 0
    assert "metrics.json" in refused.stdout + refused.stderr


def test_a_package_signed_by_the_command_line_is_read(copy, keys):
    (copy / "model.sig").unlink()
    done = command_line("sign", "key", copy, "--signature", copy / "model.sig", "--private_key", keys[0])
    assert done.returncode == 0, done.stderr
    assert load_package(copy, keys[1])


def test_a_signature_that_leaves_files_out_is_refused(copy, keys):
    (copy / "model.sig").unlink()
    command_line(
        *("sign", "key", copy, "--signature", copy / "model.sig", "--private_key", keys[0]),
        *("--ignore-paths", copy / "manifest.json"),
    )
    with pytest.raises(PackageError, match=r"manifest\.json was never signed"):
        load_package(copy, keys[1])


def test_a_package_that_cannot_be_signed_leaves_nothing_behind(write, keys, tmp_path):
    with pytest.raises(ConfigError, match="is not an unencrypted EC private key"):
        write(tmp_path / "store", signing_key=keys[1])
    assert list((tmp_path / "store").iterdir()) == []
