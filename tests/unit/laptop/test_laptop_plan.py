"""What the laptop overlay means here, and what is refused by name."""

# ruff: noqa: E501 (the table of violations reads better unbroken)

import copy
import json
from pathlib import Path

import pytest

from hounsfield.errors import PlatformError, RolloutError
from hounsfield.laptop.plan import Door, Machine, Plan, Ports, make_plan, read_door
from hounsfield.laptop.ports import ROLES
from hounsfield.laptop.render import OVERLAY, render

MANIFESTS = Path(__file__).parents[3] / "manifests"
MACHINE = Machine(Ports(8080), Path("/repo"), "/venv/python", "/guard/python", Path("/home/of"))


@pytest.fixture(scope="module")
def rendered():
    return render(MANIFESTS / OVERLAY)


@pytest.fixture
def objects(rendered):
    """The laptop overlay with packages in both revisions and 95/5."""
    fresh = copy.deepcopy(rendered)
    for role, version in (("stable", 3), ("canary", 4)):
        service = get(fresh, "InferenceService", f"opacity-{role}")
        set_package(service, f"file:///models/v%20{version}")
        service["spec"]["predictor"]["model"]["args"][1] = f"--model_version={version}"
        service["spec"]["explainer"]["containers"][0]["args"][1] = f"--model_version={version}"
        service["metadata"]["annotations"]["hounsfield.dev/model-version"] = str(version)
    set_weights(fresh, 95, 5)
    return fresh


def set_package(service, uri):
    service["spec"]["predictor"]["model"]["storageUri"] = uri
    environment = service["spec"]["explainer"]["containers"][0]["env"]
    next(item for item in environment if item["name"] == "STORAGE_URI")["value"] = uri


def get(objects, kind, name=None):
    return next(o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"]))


def route(objects, name):
    return next(r for r in get(objects, "VirtualService")["spec"]["http"] if r["name"] == name)


def set_weights(objects, stable, canary):
    for name in ("rest-by-weight", "grpc-by-weight", "explain-by-weight"):
        route(objects, name)["route"][0]["weight"] = stable
        route(objects, name)["route"][1]["weight"] = canary


def plan(objects) -> Plan:
    return make_plan(objects, MACHINE)


def envoy_route(plan, name):
    return next(r for r in plan.virtual_hosts[0]["routes"] if r["name"] == name)


def test_the_runtime_args_come_first_then_the_models_with_ports_and_folder_of_this_machine(objects):
    canary = next(p for p in plan(objects).processes if p.name == "opacity-canary")
    assert canary.command == (
        *("/venv/python", "-m", "serving.predictor"),
        *("--model_dir=/models/v 4", "--http_port=8083", "--grpc_port=8084"),
        *("--verify_key=/home/of/keys/signing.pub", "--log_dir=/home/of/log/canary", "--retention_days=365"),
        *("--model_name=opacity", "--model_version=4", "--host=127.0.0.1"),
    )
    assert canary.environment == {
        "INFERENCE_SERVICE_NAME": "opacity-canary",
        "OMP_NUM_THREADS": "1",
        "POD_NAME": "opacity-canary",
    }
    assert canary.ready_url == "http://127.0.0.1:8083/v2/health/ready"
    assert canary.folder == Path("/models/v 4")


def test_the_explainer_explains_the_predictors_package_on_a_port_of_its_own(objects):
    stable = next(p for p in plan(objects).processes if p.name == "opacity-stable-explainer")
    assert stable.command == (
        *("/venv/python", "-m", "serving.explainer"),
        *("--model_name=opacity", "--model_version=3", "--model_dir=/models/v 3"),
        *("--verify_key=/home/of/keys/signing.pub", "--http_port=8090", "--host=127.0.0.1"),
    )
    assert stable.environment == {"INFERENCE_SERVICE_NAME": "opacity-stable", "OMP_NUM_THREADS": "1"}
    assert stable.ready_url == "http://127.0.0.1:8090/v2/health/ready"


def test_the_environment_of_the_model_wins_over_the_runtimes(objects):
    model = get(objects, "InferenceService", "opacity-stable")["spec"]["predictor"]["model"]
    model["env"] = [{"name": "OMP_NUM_THREADS", "value": "2"}]
    stable = next(p for p in plan(objects).processes if p.name == "opacity-stable")
    assert stable.environment["OMP_NUM_THREADS"] == "2"


def test_the_gate_runs_in_the_guard_environment_on_one_interface(objects):
    gate = next(p for p in plan(objects).processes if p.name == "gate")
    assert gate.command == (
        *("/guard/python", "-m", "serving.gate", "--host", "127.0.0.1"),
        *("--service-type", "MODEL"),
    )
    assert gate.environment["PREDICTIVE_UNIT_HTTP_SERVICE_PORT"] == "8085"
    assert gate.environment["PYTHONPATH"] == "/repo/src:/repo"
    assert gate.ready_url == "http://127.0.0.1:8085/health/ping"


def test_the_drift_worker_reads_all_logs_in_the_guard_environment(objects):
    drift = next(p for p in plan(objects).processes if p.name == "opacity-drift")
    assert drift.command == (
        *("/guard/python", "-m", "hounsfield.drift.watch"),
        *("--logs=/home/of/log", "--state=/home/of/drift", "--window=100", "--port=8092", "--host=127.0.0.1"),
    )
    assert drift.environment == {"PYTHONPATH": "/repo/src", "OMP_NUM_THREADS": "1"}
    assert drift.ready_url == "http://127.0.0.1:8092/ready"


def test_only_what_predictions_need_is_waited_for(objects):
    background = {process.name for process in plan(objects).processes if process.in_background}
    assert background == {"opacity-stable-explainer", "opacity-canary-explainer", "opacity-drift"}


def test_rest_goes_to_the_http_ports_and_grpc_to_the_others_by_the_same_weights(objects):
    result = plan(objects)
    shares = {
        name: {
            share["name"]: share["weight"]
            for share in envoy_route(result, name)["route"]["weighted_clusters"]["clusters"]
        }
        for name in ("rest-by-weight", "grpc-by-weight", "explain-by-weight")
    }
    assert shares["rest-by-weight"] == {"opacity-stable-predictor|80": 95, "opacity-canary-predictor|80": 5}
    assert shares["grpc-by-weight"] == {
        "opacity-stable-predictor|8081": 95,
        "opacity-canary-predictor|8081": 5,
    }
    assert shares["explain-by-weight"] == {
        "opacity-stable-explainer|80": 95,
        "opacity-canary-explainer|80": 5,
    }
    endpoints = {
        cluster["name"]: (
            cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
            ["socket_address"]["port_value"],
            "typed_extension_protocol_options" in cluster,
        )
        for cluster in result.clusters
    }  # fmt: skip
    assert endpoints == {
        "opacity-stable-predictor|80": (8081, False),
        "opacity-stable-predictor|8081": (8082, True),
        "opacity-canary-predictor|80": (8083, False),
        "opacity-canary-predictor|8081": (8084, True),
        "opacity-stable-explainer|80": (8090, False),
        "opacity-canary-explainer|80": (8091, False),
    }
    assert result.weights == {"stable": 95, "canary": 5}
    assert result.revisions == {"stable": "3", "canary": "4"}


def test_header_routes_come_before_the_weighted_ones(objects):
    names = [r["name"] for r in plan(objects).virtual_hosts[0]["routes"]]
    assert names == [
        "no-shadow",
        "rest-stable",
        "rest-canary",
        "grpc-stable",
        "grpc-canary",
        "explain-stable",
        "explain-canary",
        "rest-first",
        "grpc-first",
        "explain-first",
        "rest-by-weight",
        "grpc-by-weight",
        "explain-by-weight",
    ]


def test_timeout_and_no_retries(objects):
    action = envoy_route(plan(objects), "rest-by-weight")["route"]
    assert action["timeout"] == "30s"
    assert "retry_policy" not in action
    route(objects, "rest-by-weight")["retries"] = {"attempts": 2, "retryOn": "5xx", "perTryTimeout": "1s"}
    assert envoy_route(plan(objects), "rest-by-weight")["route"]["retry_policy"] == {
        "num_retries": 2, "retry_on": "5xx", "per_try_timeout": "1s",
    }  # fmt: skip


def test_a_mirror_of_a_tenth(objects):
    assert "request_mirror_policies" not in envoy_route(plan(objects), "rest-by-weight")["route"]
    route(objects, "rest-by-weight")["mirrorPercentage"] = {"value": 10.0}
    (mirror,) = envoy_route(plan(objects), "rest-by-weight")["route"]["request_mirror_policies"]
    assert mirror["cluster"] == "opacity-canary-predictor|80"
    assert mirror["runtime_fraction"]["default_value"] == {"numerator": 100_000, "denominator": "MILLION"}


def test_weighted_routes_choose_by_the_hash_of_the_study(objects):
    for name in ("rest-by-weight", "grpc-by-weight", "explain-by-weight"):
        action = envoy_route(plan(objects), name)["route"]
        assert action["weighted_clusters"]["use_hash_policy"] is True
        # Istio's: one for each destination with a consistentHash, and both are of the same header.
        assert action["hash_policy"] == [{"header": {"header_name": "x-hounsfield-study"}}] * 2
    assert "use_hash_policy" not in envoy_route(plan(objects), "rest-stable")["route"]["weighted_clusters"]


def test_the_destination_rule_limits_the_cluster(objects):
    cluster = next(c for c in plan(objects).clusters if c["name"] == "opacity-stable-predictor|80")
    assert (cluster["lb_policy"], cluster["connect_timeout"]) == ("RING_HASH", "2s")
    assert cluster["circuit_breakers"] == {"thresholds": [{"max_pending_requests": 256, "max_requests": 256}]}


def test_a_fresh_tree_runs_the_gate_and_answers_503(rendered):
    result = plan(rendered)
    assert [process.name for process in result.processes] == ["gate", "opacity-drift"]
    assert result.clusters == ()
    assert {r["direct_response"]["status"] for r in result.virtual_hosts[0]["routes"][1:]} == {503}
    assert result.revisions == {}


def test_a_plan_is_json(objects):
    json.dumps([plan(objects).clusters, plan(objects).virtual_hosts])


def test_a_weight_on_a_revision_without_a_model_is_refused(objects):
    set_package(get(objects, "InferenceService", "opacity-canary"), "none")
    with pytest.raises(RolloutError, match="canary has weight 5 but no model"):
        plan(objects)
    set_weights(objects, 100, 0)
    assert plan(objects).revisions == {"stable": "3"}


def test_weights_that_do_not_make_100_are_refused(objects):
    set_weights(objects, 90, 5)
    with pytest.raises(RolloutError, match=r"rest-by-weight: the weights \[90, 5\] do not add up to 100"):
        plan(objects)


def test_weights_that_disagree_between_rest_and_grpc_are_refused(objects):
    grpc = route(objects, "grpc-by-weight")["route"]
    grpc[0]["weight"], grpc[1]["weight"] = 50, 50
    with pytest.raises(RolloutError, match="must exist and agree"):
        plan(objects)


def change(kind, name, path, value):
    """A planted violation: sets `path` (keys and indices) of one object to `value`."""

    def apply(objects):
        item = get(objects, kind, name)
        for key in path[:-1]:
            item = item[key]
        item[path[-1]] = value

    return apply


STABLE = ("InferenceService", "opacity-stable")
MODEL = ("spec", "predictor", "model")
HTTP = ("VirtualService", "opacity", ("spec", "http", 10))
GATE = ("spec", "predictors", 0)
DRIFT = ("Deployment", "opacity-drift")
POD = ("spec", "template", "spec")
STUDY = ("EnvoyFilter", "hounsfield-study", ("spec", "configPatches", 0))


@pytest.mark.parametrize(
    ("violation", "error", "named"),
    [
        (change(*STABLE, ("metadata", "annotations", "serving.kserve.io/deploymentMode"), "Knative"), PlatformError, "deploymentMode is 'Knative'"),
        (change(*STABLE, ("spec", "predictor", "canaryTrafficPercent"), 10), PlatformError, "predictor.canaryTrafficPercent"),
        (change(*STABLE, ("spec", "predictor", "logger"), {}), PlatformError, "predictor.logger"),
        (change(*STABLE, ("spec", "explainer", "art"), {}), PlatformError, "explainer.art"),
        (change(*STABLE, ("spec", "explainer", "containers", 0, "command"), ["sh"]), PlatformError, "explainer container.command is 'sh'"),
        (change(*STABLE, ("spec", "explainer", "containers", 0, "env", 0, "value"), "none"), RolloutError, "STORAGE_URI 'none' is not the predictor's package"),
        (change(*STABLE, ("spec", "transformer"), {}), PlatformError, "spec.transformer"),
        (lambda objects: set_package(get(objects, *STABLE), "s3://bucket/model"), PlatformError, "'s3://bucket/model' is not a folder"),
        (change(*STABLE, (*MODEL, "runtime"), "other"), RolloutError, "runtime 'other' is not among"),
        (change(*STABLE, (*MODEL, "modelFormat", "name"), "onnx"), RolloutError, "not 'onnx'"),
        (change(*STABLE, (*MODEL, "protocolVersion"), "v1"), RolloutError, "does not speak protocol 'v1'"),
        (change(*STABLE, (*MODEL, "args"), ["--name={{.Name}}"]), PlatformError, "{{.Name}}"),
        (change(*STABLE, (*MODEL, "args"), ["--log=/log/$(NODE)"]), PlatformError, "$(NODE)"),
        (change(*STABLE, (*MODEL, "env"), [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]), PlatformError, "env A.valueFrom"),
        (change(*STABLE, (*MODEL, "env"), [{"name": "A", "valueFrom": {}}]), PlatformError, "env A.valueFrom"),
        (change(*STABLE, ("metadata", "labels", "hounsfield.dev/revision"), "canary"), RolloutError, "same revision label"),
        (change(*STABLE, ("metadata", "labels", "hounsfield.dev/revision"), "blue"), RolloutError, "is 'blue'"),
        (change("ServingRuntime", None, ("spec", "containers", 0, "command"), ["sh"]), PlatformError, "command is 'sh'"),
        (change("Gateway", None, ("spec", "servers", 0, "port", "protocol"), "HTTPS"), PlatformError, "protocol is 'HTTPS'"),
        (change("Gateway", None, ("spec", "servers", 0, "tls"), {}), PlatformError, "protocol is 'HTTP'"),
        (change("EnvoyFilter", "hounsfield-edge", ("spec", "configPatches", 0, "match", "listener", "portNumber"), 80), PlatformError, "listener.portNumber"),
        (change("EnvoyFilter", "hounsfield-edge", ("spec", "configPatches", 2, "match", "listener", "filterChain", "filter", "name"), "tcp"), PlatformError, "filter.name is 'tcp'"),
        (change("Gateway", None, ("spec", "servers", 0, "port", "number"), 9090), PlatformError, "port is 9090 but the stack runs on 8080"),
        (change(*HTTP[:2], (*HTTP[2], "fault"), {}), PlatformError, "rest-by-weight.fault"),
        (change(*HTTP[:2], (*HTTP[2], "match", 0, "withoutHeaders"), {}), PlatformError, "withoutHeaders"),
        (change(*HTTP[:2], (*HTTP[2], "match", 0, "uri"), {"suffix": "x"}), PlatformError, "uri.suffix"),
        (change(*HTTP[:2], (*HTTP[2], "route", 0, "destination", "subset"), "v1"), PlatformError, "destination.subset"),
        (change(*HTTP[:2], (*HTTP[2], "route", 0, "destination", "host"), "elsewhere"), RolloutError, "no Service 'elsewhere'"),
        (change(*HTTP[:2], (*HTTP[2], "route", 0, "destination", "port", "number"), 8080), RolloutError, "port 8080 of opacity-stable-predictor does not exist; it has 80, 8081"),
        (change(*HTTP[:2], ("spec", "gateways"), ["mesh"]), PlatformError, "gateways is"),
        (change("DestinationRule", "opacity-stable", ("spec", "trafficPolicy", "outlierDetection"), {}), PlatformError, "outlierDetection"),
        (change("DestinationRule", "opacity-stable", ("spec", "trafficPolicy", "loadBalancer"), {"simple": "PASSTHROUGH"}), PlatformError, "PASSTHROUGH"),
        (change("DestinationRule", "opacity-stable", ("spec", "trafficPolicy", "loadBalancer", "consistentHash"), {"httpCookie": {}}), PlatformError, "consistentHash.httpCookie"),
        (change(*STUDY[:2], (*STUDY[2], "applyTo",), "CLUSTER"), PlatformError, "configPatches[0].applyTo is 'CLUSTER'"),
        (change(*STUDY[:2], (*STUDY[2], "patch", "operation"), "REMOVE"), PlatformError, "operation is 'REMOVE'"),
        (change(*STUDY[:2], (*STUDY[2], "match", "context"), "ANY"), PlatformError, "context is 'ANY'"),
        (change(*STUDY[:2], (*STUDY[2], "match", "proxy"), {}), PlatformError, "match.proxy"),
        (change(*STUDY[:2], (*STUDY[2], "match", "routeConfiguration", "portNumber"), 80), PlatformError, "routeConfiguration.portNumber"),
        (change(*STUDY[:2], (*STUDY[2], "match", "routeConfiguration", "vhost", "route", "action"), "ANY"), PlatformError, "action is 'ANY'"),
        (change(*STUDY[:2], (*STUDY[2], "match", "routeConfiguration", "vhost", "route", "name"), "rest"), RolloutError, "EnvoyFilter hounsfield-study: there is no route 'rest'"),
        (change("SeldonDeployment", "gate", (*GATE, "graph", "children"), []), PlatformError, "graph.children"),
        (change("SeldonDeployment", "gate", (*GATE, "graph", "endpoint"), {"type": "GRPC"}), PlatformError, "GRPC"),
        (change("SeldonDeployment", "gate", ("spec", "protocol"), "v2"), PlatformError, "protocol is 'v2'"),
        (change("SeldonDeployment", "gate", (*GATE, "componentSpecs", 0, "spec", "containers", 0, "command"), ["sh"]), PlatformError, "command is 'sh serving"),
        (change(*DRIFT, (*POD, "containers", 0, "command"), ["python", "-m", "http.server"]), PlatformError, "Deployment opacity-drift container command is 'python -m http.server'"),
        (change(*DRIFT, (*POD, "initContainers"), []), PlatformError, "pod.initContainers"),
        (change(*DRIFT, (*POD, "containers", 0, "args"), ["--logs=$(LOGS)"]), PlatformError, "$(LOGS)"),
        (change(*DRIFT, ("spec", "paused"), True), PlatformError, "Deployment opacity-drift.spec.paused"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(objects, violation, error, named):
    violation(objects)
    with pytest.raises(error) as raised:
        plan(objects)
    assert named in str(raised.value)


def test_an_object_of_another_kind_is_refused(objects):
    objects.append({"kind": "StatefulSet", "metadata": {"name": "extra"}})
    with pytest.raises(
        PlatformError, match="StatefulSet extra: the laptop platform does not run objects of kind"
    ):
        plan(objects)


def test_the_gateways_port_is_the_overlays(rendered):
    assert read_door(rendered) == Door(8080)
    assert list(Ports(8080).all()) == list(range(8080, 8093))


def test_no_two_ports_are_the_same():
    ports = Ports(8080)
    named = [ports.gateway, ports.gate, ports.gate_grpc, ports.gate_metrics, ports.envoy_admin, ports.mlflow]
    named += [ports.drift_metrics, *(ports.explainer(role) for role in ROLES)]
    named += [port for role in ROLES for port in ports.of_revision(role).values()]
    assert sorted(named) == list(ports.all())


@pytest.mark.parametrize("port", [0, -1, 65524])
def test_a_port_without_room_for_the_others_is_refused(port):
    with pytest.raises(PlatformError, match=f"port {port} cannot be used"):
        Ports(port)
