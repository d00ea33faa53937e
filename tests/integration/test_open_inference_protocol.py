"""The Open Inference Protocol, case by case, against the real predictor; after each the next one succeeds."""

import dataclasses
import json

import grpc
import numpy as np
import pytest
import requests
import schemathesis
import tritonclient.grpc
import tritonclient.http
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from bench.serving import protocol_cases as table
from bench.serving.protocol import MARKER, Case, Sent, Target, exchange, judge
from hounsfield.dicom.reading import read_image
from hounsfield.imaging.contract import prepare
from hounsfield.serving.wire import MAX_BODY_BYTES
from tests.integration.predictor_process import CONTRACT, NOT_DICOM, json_request

DEFAULT = ["probability", "label", "review_required", "refusal"]
SIZE = CONTRACT.size_px


@pytest.fixture(scope="module")
def image(scan):
    """(1, 1, 32, 32) float32."""
    return prepare(read_image(scan), CONTRACT)[np.newaxis]


@pytest.fixture(scope="module")
def target(server, image):
    values = tuple(image.ravel().tolist())
    return Target(server.url, "opacity", "3", "image", image.shape, values, ("probability", "label"), "dicom")


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


# What is this server's own: its inputs, its headers, and the routes that it does not have.
OURS = (
    Case("a value above 1", table.bad_value(b"1.5")),
    Case("a value below 0", table.bad_value(b"-0.5")),
    Case("a value past float32", table.bad_value(b"1e300")),
    Case("a boolean for every value", lambda t: table.bad_tensor(data=[True] * len(t.values))(t)),
    Case("nested in another shape", lambda t: table.bad_tensor(data=[[v] for v in t.values])(t)),
    Case("257 instances", table.bad_batch(257)),
    Case("a file that is not base64", table.bytes_tensor([MARKER])),
    Case("the same output twice", table.bad_request(outputs=[{"name": "label"}] * 2)),
    Case(
        "an output by shared memory",
        table.bad_request(outputs=[{"name": "label", "parameters": {"shared_memory_region": MARKER}}]),
    ),
    Case("an id of 300 characters", table.bad_request(id="x" * 300)),
    Case("an id with a line break", table.bad_request(id="a\nb")),
    Case("load a model", table.post("/v2/repository/models/{model}/load")),
    Case("unload a model", table.post("/v2/repository/models/{model}/unload")),
    Case("predict by v1", table.post("/v1/models/{model}:predict")),
    Case("explain at the predictor", table.post("/v1/models/{model}:explain")),
    Case("predict by v1, another model", table.post("/v1/models/nothing:predict"), 404),
    Case(
        "feedback that is not JSON", lambda t: Sent("POST", "/v2/models/opacity/feedback", b"{" + NOT_DICOM)
    ),
    Case(
        "feedback with another label",
        lambda t: table.infer(t, {"request_id": "1", "label": MARKER}, "/v2/models/opacity/feedback"),
    ),
    Case(
        "feedback about an unknown request",
        lambda t: table.infer(t, {"request_id": "1", "label": "positive"}, "/v2/models/opacity/feedback"),
        404,
    ),
    *(
        Case(
            f"{name} {what}",
            lambda t, name=name, value=value: dataclasses.replace(table.GOOD.send(t), headers={name: value}),
        )
        for name, what, value in (
            ("x-hounsfield-caller", "too long", "c" * 129),
            ("x-hounsfield-study", "too long", "s" * 65),
            ("x-hounsfield-study", "with a name in it", MARKER),
            ("x-request-id", "too long", "r" * 300),
        )
    ),
    Case(
        "a compressed body",
        lambda t: dataclasses.replace(table.GOOD.send(t), headers={"Content-Encoding": "gzip"}),
        415,
    ),
    Case("headers of 100 kB", table.on_the_wire(b"X-Long: " + b"x" * 100_000), 431),
    Case("a path that is no text", lambda t: Sent(raw=b"GET /v2/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n")),
    Case("no path but a host", lambda t: Sent(raw=b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n")),
    Case("CONNECT", lambda t: Sent(raw=b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n")),
)


@pytest.mark.parametrize("case", [*table.CASES, *OURS], ids=lambda case: case.name)
def test_rest(server, target, case):
    size = server.log.stat().st_size
    assert judge(case, target, exchange(target, case.send(target)), strict=True) == ""
    assert judge(table.GOOD, target, exchange(target, table.GOOD.send(target))) == ""
    with server.log.open() as log:
        log.seek(size)
        written = log.read()
    assert "Traceback" not in written
    assert MARKER not in written


def test_there_are_at_least_40_cases_and_none_has_anothers_name():
    assert len(table.CASES) >= 40
    assert len({case.name for case in table.CASES}) == len(table.CASES)


def test_a_server_that_breaks_the_protocol_is_seen_by_the_judge(target):
    bad = next(case for case in table.CASES if case.name == "wrong datatype")
    for status, body, words in (
        (500, b'{"error": "x"}', "status 500"),
        (200, b"{}", "status 200"),
        (400, b'{"detail": "x"}', "no field 'error'"),
        (400, b"bad", "not JSON"),
        (400, b'{"error": "DOE^JANE is wrong"}', "quotes"),
    ):
        assert words in judge(bad, target, table.Received(status, {}, body))
    answer = {
        "model_name": "opacity",
        "outputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1]}],
    }
    assert "does not fit" in judge(table.GOOD, target, table.Received(200, {}, json.dumps(answer).encode()))


# gRPC


def call(image=None, **fields):
    """A good request with `fields` set, its image raw."""
    request = pb.ModelInferRequest(model_name="opacity", **fields)
    if image is not None:
        request.inputs.add(name="image", datatype="FP32", shape=image.shape)
        request.raw_input_contents.append(image.tobytes())
    return request


def changed(change):
    def build(image):
        request = call(image)
        change(request)
        return request

    return build


def _typed(request, **contents):
    del request.raw_input_contents[:]
    for name, values in contents.items():
        getattr(request.inputs[0].contents, name).extend(values)


GRPC = {
    "unknown model": ("NOT_FOUND", changed(lambda r: setattr(r, "model_name", MARKER))),
    "unknown version": ("NOT_FOUND", changed(lambda r: setattr(r, "model_version", "99"))),
    "no input": ("INVALID_ARGUMENT", lambda image: call()),
    "the same input twice": (
        "INVALID_ARGUMENT",
        lambda image: pb.ModelInferRequest.FromString(call(image).SerializeToString() * 2),
    ),
    "wrong name": ("INVALID_ARGUMENT", changed(lambda r: setattr(r.inputs[0], "name", MARKER))),
    "wrong datatype": ("INVALID_ARGUMENT", changed(lambda r: setattr(r.inputs[0], "datatype", "INT64"))),
    "unknown datatype": ("INVALID_ARGUMENT", changed(lambda r: setattr(r.inputs[0], "datatype", MARKER))),
    "negative dimension": ("INVALID_ARGUMENT", changed(lambda r: r.inputs[0].shape.__setitem__(0, -1))),
    "huge dimension": ("INVALID_ARGUMENT", changed(lambda r: r.inputs[0].shape.__setitem__(0, 2**62))),
    "empty batch": ("INVALID_ARGUMENT", changed(lambda r: r.inputs[0].shape.__setitem__(0, 0))),
    "wrong rank": ("INVALID_ARGUMENT", changed(lambda r: r.inputs[0].shape.append(1))),
    "raw data cut short": (
        "INVALID_ARGUMENT",
        changed(lambda r: r.raw_input_contents.__setitem__(0, NOT_DICOM)),
    ),
    "raw data too many": ("INVALID_ARGUMENT", changed(lambda r: r.raw_input_contents.append(NOT_DICOM))),
    "raw and typed at once": (
        "INVALID_ARGUMENT",
        changed(lambda r: r.inputs[0].contents.fp32_contents.extend([0.0])),
    ),
    "no data": ("INVALID_ARGUMENT", changed(lambda r: _typed(r))),
    "typed data of another type": ("INVALID_ARGUMENT", changed(lambda r: _typed(r, int_contents=[1]))),
    "typed data too short": ("INVALID_ARGUMENT", changed(lambda r: _typed(r, fp32_contents=[0.5]))),
    "typed NaN": (
        "INVALID_ARGUMENT",
        changed(lambda r: _typed(r, fp32_contents=[float("nan")] * SIZE * SIZE)),
    ),
    "unknown output": ("INVALID_ARGUMENT", changed(lambda r: r.outputs.add(name=MARKER))),
    "output twice": (
        "INVALID_ARGUMENT",
        changed(lambda r: (r.outputs.add(name="label"), r.outputs.add(name="label"))),
    ),
    "id of 300 characters": ("INVALID_ARGUMENT", changed(lambda r: setattr(r, "id", "x" * 300))),
}


@pytest.mark.parametrize("case", GRPC)
def test_grpc_names_the_mistake_and_quotes_nothing(stub, image, case):
    status, build = GRPC[case]
    with pytest.raises(grpc.RpcError) as error:
        stub.ModelInfer(build(image), timeout=10)
    assert error.value.code().name == status
    assert error.value.details()
    assert MARKER not in error.value.details()
    assert stub.ModelInfer(call(image), timeout=10).outputs[0].name == "probability"


@pytest.mark.parametrize(
    ("key", "value"),
    [("x-hounsfield-study", "a/b"), ("x-hounsfield-caller", "c" * 200), ("x-request-id", "r" * 300)],
)
def test_grpc_metadata_is_checked_as_headers_are(stub, image, key, value):
    with pytest.raises(grpc.RpcError) as error:
        stub.ModelInfer(call(image), timeout=10, metadata=((key, value),))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_grpc_bytes_that_are_no_message_are_the_clients_mistake(server, stub, image):
    with grpc.insecure_channel(server.grpc) as channel:
        for method in ("ModelInfer", "ModelReady", "RepositoryModelLoad"):
            raw = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            with pytest.raises(grpc.RpcError) as error:
                raw(b"\xff\xff\xff" + NOT_DICOM, timeout=10)
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    stub.ModelInfer(call(image), timeout=10)
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_grpc_message_past_the_bound_is_resource_exhausted_also_when_compressed(server, image, compression):
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options=options, compression=compression) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = call(image)
        request.raw_input_contents[0] = bytes(MAX_BODY_BYTES + 1)
        with pytest.raises(grpc.RpcError) as error:
            stub.ModelInfer(request, timeout=30)
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.ModelInfer(call(image), timeout=10).model_name == "opacity"


@pytest.mark.parametrize(
    ("method", "request_", "status"),
    [
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="opacity"), "INVALID_ARGUMENT"),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="opacity"), "INVALID_ARGUMENT"),
        ("ModelReady", pb.ModelReadyRequest(name="nothing"), "NOT_FOUND"),
        ("ModelReady", pb.ModelReadyRequest(name="opacity", version="9"), "NOT_FOUND"),
        ("ModelMetadata", pb.ModelMetadataRequest(name="nothing"), "NOT_FOUND"),
        ("ModelMetadata", pb.ModelMetadataRequest(name="opacity", version="9"), "NOT_FOUND"),
        ("ModelConfig", pb.ModelConfigRequest(name="opacity"), "UNIMPLEMENTED"),
    ],
)
def test_grpc_has_no_loading_and_no_other_model(server, method, request_, status):
    # Triton's messages are KServe's on the wire, and so is the service, up to its loading methods.
    with grpc.insecure_channel(server.grpc) as channel:
        raw = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        with pytest.raises(grpc.RpcError) as error:
            raw(request_.SerializeToString(), timeout=10)
    assert error.value.code().name == status


# tritonclient


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_tritonclient_over_http(server, image, expected, binary):
    with tritonclient.http.InferenceServerClient(server.http) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("opacity")
        assert client.is_model_ready("opacity", "3")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        metadata = client.get_model_metadata("opacity", "3")
        assert metadata["versions"] == ["3"]
        assert [each["name"] for each in metadata["outputs"]] == [*DEFAULT, "embedding"]
        tensor = tritonclient.http.InferInput("image", image.shape, "FP32")
        tensor.set_data_from_numpy(image, binary_data=binary)
        result = client.infer("opacity", [tensor], request_id="7", model_version="3")
        assert [each["name"] for each in result.get_response()["outputs"]] == DEFAULT
        assert result.get_response()["id"] == "7"
        assert result.as_numpy("probability").tolist() == [expected]
        asked = [tritonclient.http.InferRequestedOutput(n, binary) for n in ("embedding", "label")]
        result = client.infer("opacity", [tensor], outputs=asked)
        assert [each["name"] for each in result.get_response()["outputs"]] == ["embedding", "label"]
        assert list(result.as_numpy("embedding").shape) == [1, metadata["outputs"][-1]["shape"][1]]
        assert np.isfinite(result.as_numpy("embedding")).all()
        with pytest.raises(tritonclient.http.InferenceServerException, match="no model of that name"):
            client.infer("nothing", [tensor])


def test_tritonclient_over_grpc(server, image, expected):
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("opacity", "3")
        assert client.get_server_metadata().name == "hounsfield"
        metadata = client.get_model_metadata("opacity", "3")
        assert list(metadata.versions) == ["3"]
        assert [each.name for each in metadata.outputs] == [*DEFAULT, "embedding"]
        tensor = tritonclient.grpc.InferInput("image", image.shape, "FP32")
        tensor.set_data_from_numpy(image)
        result = client.infer("opacity", [tensor], request_id="7")
        assert [each.name for each in result.get_response().outputs] == DEFAULT
        assert result.get_response().id == "7"
        assert result.as_numpy("probability").tolist() == [expected]
        asked = [tritonclient.grpc.InferRequestedOutput(name) for name in ("embedding", "label")]
        result = client.infer("opacity", [tensor], outputs=asked)
        assert [each.name for each in result.get_response().outputs] == ["embedding", "label"]
        assert result.as_numpy("embedding").shape == (1, metadata.outputs[-1].shape[1])


def test_every_door_gives_the_same_embedding_and_nan_where_refused(server, stub, scan, image):
    body = {**json_request(scan, NOT_DICOM), "outputs": [{"name": "embedding"}]}
    (output,) = requests.post(server.infer, json=body, timeout=10).json()["outputs"]
    by_json = np.array(output["data"], dtype=np.float32).reshape(output["shape"])
    request = call(image)
    request.outputs.add(name="embedding")
    by_grpc = np.frombuffer(stub.ModelInfer(request, timeout=10).raw_output_contents[0], "<f4")
    np.testing.assert_array_equal(by_json[0], by_grpc)
    assert np.isnan(by_json[1]).all()


def test_the_id_is_the_requests_then_the_headers_then_ours(server, scan):
    def answered(body, **headers):
        return requests.post(server.infer, json=body, headers=headers, timeout=10).json()["id"]

    request = json_request(scan)
    assert answered({**request, "id": "a"}, **{"x-request-id": "b"}) == "a"
    assert answered(request, **{"x-request-id": "b"}) == "b"
    first, second = answered(request), answered(request)
    assert len(first) == 36
    assert first != second


def test_feedback_is_taken_for_a_prediction_and_counted_once(server, scan):
    asked = requests.post(
        server.infer, json=json_request(scan), headers={"x-request-id": "feedback-1"}, timeout=10
    )
    assert asked.status_code == 200
    url = f"{server.url}/v2/models/opacity/feedback"

    def give(label):
        return requests.post(
            url, json={"request_id": "feedback-1", "instance": 0, "label": label}, timeout=10
        )

    assert [give("positive").json() for _ in range(2)] == [{"accepted": 1}] * 2
    contradiction = give("negative")
    assert contradiction.status_code == 409
    assert set(contradiction.json()) == {"error"}


# OpenAPI


def test_the_document_of_the_server_is_what_it_does(server, scan):
    """Schemathesis, path parameters pinned: valid and invalid requests, by the document, within seconds."""
    load_all_checks()
    document = requests.get(f"{server.url}/openapi.json", timeout=5).json()
    schema = schemathesis.openapi.from_dict(document)
    pinned = {"model": "opacity", "version": "3"}
    # JSON Schema cannot say that the data fits the shape: a request that it allows may well be refused.
    excluded = [CHECKS.get_one("positive_data_acceptance")]
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 15
    for operation in operations:
        names = {parameter["name"] for parameter in operation.definition.raw.get("parameters", ())}
        for mode in GenerationMode:
            if mode is GenerationMode.NEGATIVE and not operation.body:
                continue
            cases = operation.as_strategy(mode, path_parameters={name: pinned[name] for name in names})

            @seed(7)
            @settings(
                max_examples=30,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=cases)
            def explore(case):
                case.call_and_validate(base_url=server.url, excluded_checks=excluded, timeout=10)

            explore()
    assert requests.post(server.infer, json=json_request(scan), timeout=10).status_code == 200
    assert "Traceback" not in server.log.read_text()
