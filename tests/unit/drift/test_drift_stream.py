"""The worker without its detectors: which predictions count, how windows fill, what is kept on the disk."""

import base64
import hashlib
import json
import urllib.error
import urllib.request

import numpy as np
import pytest

from hounsfield.audit.reader import Cursor
from hounsfield.drift import packaged, watch
from hounsfield.drift.metrics import Metrics, serve
from hounsfield.drift.state import MOST_MODELS, State, load_state, save_state
from hounsfield.drift.stream import ModelStream, read_prediction
from hounsfield.errors import ConfigError, GuardError, PlatformError

GROUPS = {"patient_sex": "F", "view_position": "PA"}


def record(number=0, **changes):
    embedding = base64.b64encode(np.array([number, 0.5], dtype="<f2").tobytes()).decode()
    return {
        "kind": "prediction",
        "time": f"2026-11-21T14:30:{number:02d}.000000Z",
        "shadow": False,
        "model_name": "opacity",
        "model_version": "3",
        "package_digest": "d" * 64,
        "input_kind": "dicom",
        "input_sha256": hashlib.sha256(bytes([number])).hexdigest(),
        "probability": number / 100,
        "refusal": "",
        "embedding": embedding,
        "subgroups": GROUPS,
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"kind": "feedback"}, None),
        ({"kind": "error"}, None),
        ({"shadow": True}, "shadow"),
        ({"refusal": "not_dicom", "probability": None, "embedding": None}, "refused"),
        ({"embedding": None}, "unusable"),
        ({"embedding": "not base64!"}, "unusable"),
        ({"embedding": base64.b64encode(b"odd").decode()}, "unusable"),
        ({"embedding": base64.b64encode(np.array([np.nan], dtype="<f2").tobytes()).decode()}, "unusable"),
        ({"embedding": ""}, "unusable"),
        ({"probability": None}, "unusable"),
    ],
)
def test_what_is_no_live_answer_does_not_count(changes, outcome):
    assert read_prediction(record(**changes)) == outcome


def test_a_window_holds_each_picture_once():
    stream = ModelStream("opacity", "3")
    assert [stream.add(read_prediction(record(number))) for number in (1, 2, 1, 3)] == [
        True,
        True,
        False,
        True,
    ]
    rows = stream.rows()
    assert rows.embedding.tolist() == [[1, 0.5], [2, 0.5], [3, 0.5]]
    assert rows.score.tolist() == pytest.approx([0.01, 0.02, 0.03])
    stream.close_window({"detectors": {}})
    assert stream.add(read_prediction(record(1))), "the next window may have it again"
    assert stream.windows == 1


def test_prepared_images_have_no_fields_and_the_others_keep_theirs():
    stream = ModelStream("opacity", "3")
    stream.add(read_prediction(record(1, input_kind="image", subgroups=dict.fromkeys(GROUPS, "unknown"))))
    stream.add(read_prediction(record(2)))
    rows = stream.rows()
    assert (len(rows), rows.with_fields) == (2, 1)
    assert rows.fields == {"patient_sex": ("F",), "view_position": ("PA",)}


def test_the_state_comes_back_as_it_was(tmp_path):
    state = State(cursors={"stable": Cursor(7, "a" * 64, 0, 4096)})
    state.model("d" * 64, "opacity", "3").add(read_prediction(record(1)))
    state.predictions["taken"] += 1
    save_state(tmp_path, state)
    assert load_state(tmp_path) == state
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_only_the_latest_models_are_remembered():
    state = State()
    for number in range(MOST_MODELS + 2):
        state.model(f"{number}", "opacity", str(number))
    assert list(state.models) == [str(number) for number in range(2, MOST_MODELS + 2)]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "cursors": 3}'])
def test_a_state_of_something_else_is_refused_and_kept(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ConfigError, match=r"state\.json is not the state of this version"):
        load_state(tmp_path)
    assert (tmp_path / "state.json").read_text() == text


def test_two_workers_cannot_share_a_state(tmp_path, capsys):
    with watch._state_folder(tmp_path):
        assert watch.main([f"--logs={tmp_path}", f"--state={tmp_path}", "--once"]) == 2
    assert "another drift worker uses the state folder" in capsys.readouterr().err


def published(tmp_path):
    """Detectors beside a log, as the predictor publishes them; what is in them does not matter here."""
    manifest = json.dumps(
        {"files": {"model.onnx": {"sha256": "0"}, "detectors/drift.json": {"sha256": _sha256(b"{}")}}}
    ).encode()
    folder = tmp_path / "detectors" / _sha256(manifest)
    (folder / "detectors").mkdir(parents=True)
    (folder / "manifest.json").write_bytes(manifest)
    (folder / "detectors" / "drift.json").write_bytes(b"{}")
    return folder


def _sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda folder: (folder / "detectors" / "drift.json").write_text("{} "),
            "drift.json is not the file",
        ),
        (lambda folder: (folder / "detectors" / "drift.json").unlink(), "drift.json is not the file"),
        (lambda folder: (folder / "detectors" / "more").write_text(""), "detectors/more is not the file"),
        (lambda folder: (folder / "manifest.json").write_text('{"files": {}}'), "is not that of the model"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "no package's manifest"),
        (lambda folder: None, "holds no drift.json of hounsfield.drift.fit"),  # past the digests
    ],
)
def test_detectors_that_are_not_the_packages_are_refused(tmp_path, damage, sentence):
    folder = published(tmp_path)
    assert packaged.find(tmp_path, folder.name) == folder
    damage(folder)
    with pytest.raises(GuardError, match=sentence):
        packaged.load(folder, folder.name)


def test_a_model_without_detectors_has_none(tmp_path):
    assert packaged.find(tmp_path, "d" * 64) is None
    assert packaged.find(tmp_path, "") is None


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_series_have_the_names_of_the_interface():
    metrics = Metrics()
    result = {"score": 0.5, "p_value": 0.001, "threshold": 0.017, "is_drift": True, "by_field": {"view": 0.2}}
    metrics.set_result("opacity", "3", {"fields": result})
    metrics.count_windows("opacity", "3", 4)
    metrics.set_logs(12, 0)
    server = serve(metrics, "127.0.0.1", 0)
    try:
        port = server.server_address[1]
        status, text = get(port, "/metrics")
        assert status == 200
        labels = 'detector="fields",model_name="opacity",model_version="3"'
        lines = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in _series(text)}
        assert lines[f"hounsfield_drift_score{{{labels}}}"] == 0.5
        assert lines[f"hounsfield_drift_p_value{{{labels}}}"] == 0.001
        assert lines[f"hounsfield_drift_detected{{{labels}}}"] == 1
        assert lines['hounsfield_drift_windows_total{model_name="opacity",model_version="3"}'] == 4
        assert lines["hounsfield_drift_lag_records"] == 12
        assert lines['hounsfield_drift_predictions_total{outcome="shadow"}'] == 0
        assert get(port, "/ready")[0] == 200
        assert get(port, "/elsewhere")[0] == 404
        with pytest.raises(PlatformError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(metrics, "127.0.0.1", port)
    finally:
        server.shutdown()
        server.server_close()


def _series(text):
    """Lines of the exposition with their labels in the order of the alphabet."""
    for line in text.splitlines():
        if line.startswith("hounsfield") and "{" in line:
            name, rest = line.split("{", 1)
            labels, value = rest.rsplit("} ", 1)
            yield f"{name}{{{','.join(sorted(labels.split(',')))}}} {value}"
        elif line.startswith("hounsfield"):
            yield line
