"""The inference log in processes of its own: killed at any moment, on a full disk, read by the guard."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hounsfield.audit.reader import read
from hounsfield.audit.segments import segment_paths
from hounsfield.audit.verification import verify
from hounsfield.serving.inference_log import InferenceLog

REPO = Path(__file__).resolve().parents[2]
GUARD = REPO / ".venv-guard" / "bin" / "python"
WAIT_S = 60

# Eight clients; each prints a record's name when, and only when, its future has ended well.
CLIENTS = """
import os, sys, threading
from pathlib import Path
from hounsfield.serving.inference_log import InferenceLog
folder, run = Path(sys.argv[1]), sys.argv[2]
log = InferenceLog(folder, segment_bytes=200_000)
def client(name):
    number = 0
    while True:
        text = f"{run}-{name}-{number}"
        log.append([{"kind": "prediction", "time": "2026-11-21T00:00:00Z", "request_id": text,
                     "embedding": "A" * 2600}]).result()
        os.write(1, (text + "\\n").encode())
        number += 1
for name in range(8):
    threading.Thread(target=client, args=(name,)).start()
"""

# One writer that is killed at a moment of its own choosing, in its third commit of two records.
KILLED_AT = {
    "before the write": "segments.write_whole = lambda *a: die()",
    "in the middle of a line": "segments.write_whole = lambda f, c, e, s: (f.write(c[:200]), die())",
    "between two lines": 'segments.write_whole = lambda f, c, e, s: (f.write(c[:c.find(b"\\n")+1]), die())',
    "before the sync": "segments.write_whole = lambda f, c, e, s: (f.write(c), die())",
    "before HEAD": "Writer._store_head = lambda *a: die()",
    "in the middle of HEAD": "Writer._store_head = lambda w, s: (store(w, s), die())",
    "before the new segment": "Writer._open = lambda *a: die()",
    "in the new, empty segment": "Writer._open = lambda w, f: (opened(w, f), die())",
}
ONE_WRITER = """
import os, signal, sys
from pathlib import Path
from hounsfield.audit import segments
from hounsfield.audit.segments import Writer
def die(): os.kill(os.getpid(), signal.SIGKILL)
store, opened = Writer._store_head, Writer._open
writer = Writer(Path(sys.argv[1]))
line = b'{"kind":"prediction","time":"2026-11-21T00:00:00Z","request_id":"%d","text":"' + b"x" * 300 + b'"}'
for number in range(3):
    if number == 2:
        exec(sys.argv[2])
    if "segment" in sys.argv[3]:
        writer.close_segment()
    writer.commit([line % (2 * number), line % (2 * number + 1)])
    os.write(1, b"%d\\n%d\\n" % (2 * number, 2 * number + 1))
"""

# Fills the disk, and then makes room. Prints what was acknowledged and what was refused.
FULL_DISK = """
import json, resource, signal, sys
from pathlib import Path
from hounsfield.audit.verification import verify
from hounsfield.errors import AuditError
from hounsfield.serving.inference_log import InferenceLog
folder, kind = Path(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def record(number):
    return {"kind": "prediction", "time": "2026-11-21T00:00:00Z", "request_id": str(number), "x": "x" * 3000}
log = InferenceLog(folder / "log", segment_bytes=100_000)
if kind == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
else:
    (folder / "ballast").write_bytes(b"x" * 150_000)
acknowledged, refused, sentences = [], [], set()
def append(number, records):
    try:
        log.append([record(number)] * records).result()
        acknowledged.extend([str(number)] * records)
    except AuditError as error:
        refused.append(number)
        sentences.add(str(error))
number = 0
while len(refused) < 20:
    append(number, 1 + number % 4)
    number += 1
count = verify(folder / "log").count
if kind == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
else:
    (folder / "ballast").unlink()
after = len(refused)
for number in range(1000, 1010):
    append(number, 1)
log.close()
head = verify(folder / "log")
from hounsfield.audit.reader import read
kept = [item["request_id"] for item, _ in read(folder / "log") if item["kind"] == "prediction"]
kinds = sorted({item["kind"] for item, _ in read(folder / "log")})
print(json.dumps({"same": kept == acknowledged, "acknowledged": len(acknowledged),
                  "sentences": list(sentences), "refused_after": len(refused) - after,
                  "count": count, "end": head.count, "kinds": kinds}))
"""


def python(program, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, **options
    )


def names(folder):
    return [item["request_id"] for item, _ in read(folder) if item["kind"] == "prediction"]


def test_sigkill_under_load_loses_no_acknowledged_record(tmp_path):
    moments = random.Random(7)
    folder = tmp_path / "log"
    acknowledged = []
    for run in range(8):
        process = python(CLIENTS, folder, run)
        try:
            first = process.stdout.readline()  # it is at work
            os.set_blocking(process.stdout.fileno(), True)
            timer = moments.uniform(0.0, 0.15)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timer)
        finally:
            process.kill()
        text = (first + process.stdout.read()).decode()
        process.stdout.close()
        assert process.wait(WAIT_S) == -signal.SIGKILL
        acknowledged += [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    InferenceLog(folder).close()  # the next start settles what the last kill left
    assert verify(folder).count == sum(1 for _ in read(folder))
    kept = names(folder)
    assert len(set(kept)) == len(kept)
    assert len(acknowledged) > 200
    assert {line.strip() for line in acknowledged} <= set(kept)
    # Each of a client's records follows the one that it had to wait for.
    for client in range(8):
        for run in range(8):
            mine = [name for name in kept if name.startswith(f"{run}-{client}-")]
            assert mine == [f"{run}-{client}-{number}" for number in range(len(mine))]


@pytest.mark.parametrize("moment", KILLED_AT)
def test_a_writer_killed_at_this_moment_leaves_a_log_that_goes_on(tmp_path, moment):
    process = python(ONE_WRITER, tmp_path, KILLED_AT[moment], moment)
    output = process.communicate(timeout=WAIT_S)[0]
    assert process.returncode == -signal.SIGKILL
    assert output.split() == [b"0", b"1", b"2", b"3"]
    InferenceLog(tmp_path).close()
    kept = names(tmp_path)
    assert kept[:4] == ["0", "1", "2", "3"]
    assert kept in ([*"0123"], [*"01234"], [*"012345"])
    assert verify(tmp_path).count == sum(1 for _ in read(tmp_path))


@pytest.mark.parametrize("kind", ["limit", "tmpfs"])
def test_a_full_disk_refuses_whole_groups_and_the_log_goes_on_when_there_is_room(tmp_path, kind):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), kind]
    if kind == "tmpfs":
        # In a mount namespace of its own: nothing is left behind, whatever happens.
        mount = f"mount -t tmpfs -o size=400k tmpfs {tmp_path}"
        namespace = ["unshare", "--mount", "sh", "-c"]
        if shutil.which("unshare") is None or subprocess.run([*namespace, mount], check=False).returncode:
            pytest.skip("mounting a small tmpfs needs root")
        command = [*namespace, f'{mount} && exec "$@"', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (sentence,) = result["sentences"]
    assert ("File too large" if kind == "limit" else "No space left on device") in sentence
    assert "make room or give another folder" in sentence
    assert result["same"], "the log does not hold what was acknowledged, no more and no less"
    assert result["acknowledged"] > 20
    assert result["refused_after"] == 0
    assert result["end"] == result["count"] + 10
    assert result["kinds"] == ["opened", "prediction"]


@pytest.mark.skipif(not GUARD.exists(), reason="the guard environment is not installed: make guard")
def test_the_guard_environment_follows_and_verifies_without_orjson(tmp_path):
    with InferenceLog(tmp_path, segment_bytes=5000) as log:
        for number in range(20):
            log.append(
                [
                    {
                        "kind": "prediction",
                        "time": "2026-11-21T00:00:00Z",
                        "request_id": f"ä-{number}",
                        "latency_s": 1e-7 * number,  # orjson and json write such numbers differently
                        "probability": 1e16,
                        "embedding": "A" * 900,
                    }
                ]
            ).result(WAIT_S)
    program = textwrap.dedent("""
        import importlib, json, pkgutil, sys
        from pathlib import Path
        import hounsfield.audit
        try:
            import orjson
        except ModuleNotFoundError:
            pass
        else:
            raise SystemExit("orjson is here, so this test shows nothing")
        for module in pkgutil.iter_modules(hounsfield.audit.__path__):
            importlib.import_module(f"hounsfield.audit.{module.name}")
        from hounsfield.audit.reader import follow
        from hounsfield.audit.verification import verify
        folder, items = Path(sys.argv[1]), []
        for item, cursor in follow(folder):
            items.append((item.get("request_id"), item.get("latency_s")))
            if cursor.count == 21:
                break
        print(json.dumps([verify(folder).hash, items]))
    """)
    environment = {**os.environ, "PYTHONPATH": str(REPO / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [GUARD, "-c", program, tmp_path],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    head, items = json.loads(done.stdout)
    assert len(segment_paths(tmp_path)) > 2
    assert head == verify(tmp_path).hash
    assert items[1:] == [[f"ä-{number}", 1e-7 * number] for number in range(20)]
