"""Every object of every overlay is valid, and says the same numbers as its rollout.yaml."""

import re
import shutil
from pathlib import Path

import pytest

from hounsfield.laptop.render import render

MANIFESTS = Path(__file__).parents[2] / "manifests"
OVERLAYS = ("laptop", "secure laptop", "staging", "production")

ACCESS_KINDS = ("AuthorizationPolicy", "RequestAuthentication")
BESIDE_THE_GATEWAY = ("EnvoyFilter", *ACCESS_KINDS)
"""They act on the ingress gateway's pods, and only from its namespace; but for two policies of ours."""


def get(objects, kind, name=None):
    return next(o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"]))


def test_a_planted_typo_is_found_deep_inside_a_container(rendered, violations):
    runtime = get(rendered["laptop"], "ServingRuntime")
    container = {**runtime["spec"]["containers"][0], "securityContex": {}}
    (found,) = violations({**runtime, "spec": {**runtime["spec"], "containers": [container]}})
    assert "securityContex" in found


def test_a_weight_in_quotes_is_found(rendered, violations):
    service = get(rendered["laptop"], "VirtualService")
    route = service["spec"]["http"][1]
    wrong = {**route, "route": [{**route["route"][0], "weight": "100"}]}
    (found,) = violations({**service, "spec": {**service["spec"], "http": [wrong]}})
    assert "weight" in found


@pytest.mark.parametrize("overlay", ["laptop", "staging", "production"])
def test_one_edit_of_rollout_yaml_reaches_every_place(overlay, tmp_path):
    tree = Path(shutil.copytree(MANIFESTS, tmp_path / "tree"))
    file = tree / "overlays" / overlay / "rollout.yaml"
    text = file.read_text().replace("stable: 100", "stable: 75").replace("canary: 0", "canary: 25")
    head, canary = text.split("  canary:\n")
    canary = re.sub(r"storageUri: \S+", "storageUri: s3://models/abc", canary)
    canary = re.sub(r'modelVersion: "0"', 'modelVersion: "12"', canary)
    canary = re.sub(r"packageDigest: \S+", f"packageDigest: {'7' * 64}", canary)
    file.write_text(f"{head}  canary:\n{canary}")

    objects = render(tree / "overlays" / overlay)

    routes = {r["name"]: r["route"] for r in get(objects, "VirtualService")["spec"]["http"] if "route" in r}
    for name, kind in (("rest", "predictor"), ("grpc", "predictor"), ("explain", "explainer")):
        shares = {share["destination"]["host"]: share["weight"] for share in routes[f"{name}-by-weight"]}
        assert shares == {f"opacity-stable-{kind}": 75, f"opacity-canary-{kind}": 25}
    service = get(objects, "InferenceService", "opacity-canary")
    assert service["metadata"]["annotations"]["hounsfield.dev/model-version"] == "12"
    assert service["metadata"]["annotations"]["hounsfield.dev/package-digest"] == "7" * 64
    assert service["spec"]["predictor"]["model"]["storageUri"] == "s3://models/abc"
    assert {"name": "STORAGE_URI", "value": "s3://models/abc"} in service["spec"]["explainer"]["containers"][
        0
    ]["env"]
    assert "--model_version=12" in service["spec"]["predictor"]["model"]["args"]
    assert "--model_version=12" in service["spec"]["explainer"]["containers"][0]["args"]
    stable = get(objects, "InferenceService", "opacity-stable")
    assert stable["spec"]["predictor"]["model"]["storageUri"] == "none"
    assert "RolloutState" not in {item["kind"] for item in objects}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_destination_is_a_service_that_kserve_makes(rendered, overlay):
    """Standard mode: the Services of InferenceService NAME are NAME-predictor and NAME-explainer."""
    objects = rendered[overlay]
    hosts = {
        f"{o['metadata']['name']}-{component}"
        for o in objects
        if o["kind"] == "InferenceService"
        for component in o["spec"]
    }
    asked = {
        share["destination"]["host"]
        for route in get(objects, "VirtualService")["spec"]["http"]
        for share in route.get("route", [])
    }
    limited = {o["spec"]["host"] for o in objects if o["kind"] == "DestinationRule"}
    assert asked == limited == hosts
    assert hosts == {
        f"opacity-{role}-{component}"
        for role in ("stable", "canary")
        for component in ("predictor", "explainer")
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_inference_services_name_their_mode_and_leave_the_split_to_istio(rendered, overlay):
    for item in rendered[overlay]:
        if item["kind"] == "InferenceService":
            assert item["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
            assert "canaryTrafficPercent" not in item["spec"]["predictor"]


def containers(item):
    if item["kind"] == "ServingRuntime":
        yield from item["spec"]["containers"]
    if item["kind"] == "InferenceService":
        yield from item["spec"]["explainer"]["containers"]
    if item["kind"] == "Deployment":
        yield from item["spec"]["template"]["spec"]["containers"]
    if item["kind"] == "SeldonDeployment":
        for predictor in item["spec"]["predictors"]:
            for component in predictor["componentSpecs"]:
                yield from component["spec"]["containers"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_is_restricted_and_sized(rendered, overlay):
    found = [container for item in rendered[overlay] for container in containers(item)]
    assert len(found) == 5
    for container in found:
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        assert (
            {"cpu", "memory"}
            == set(container["resources"]["requests"])
            == set(container["resources"]["limits"])
        )


@pytest.mark.parametrize("overlay", ["secure laptop", "production"])
def test_tls_only_and_nobody_unknown(rendered, overlay):
    (server,) = get(rendered[overlay], "Gateway")["spec"]["servers"]
    assert (server["port"]["protocol"], server["tls"]["mode"]) == ("HTTPS", "SIMPLE")
    assert server["tls"]["minProtocolVersion"] == "TLSV1_2"
    policy = get(rendered[overlay], "AuthorizationPolicy", "hounsfield")["spec"]
    assert policy["action"] == "DENY"
    assert policy["rules"][0]["when"] == [{"key": "request.headers[x-hounsfield-caller]", "notValues": ["*"]}]
    (rule,) = get(rendered[overlay], "RequestAuthentication")["spec"]["jwtRules"]
    assert rule["outputClaimToHeaders"] == [{"header": "x-hounsfield-caller", "claim": "sub"}]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_is_in_a_manifest(rendered, overlay):
    assert "Secret" not in {item["kind"] for item in rendered[overlay]}
    assert "hfk_" not in str(rendered[overlay])
    assert "PRIVATE KEY" not in str(rendered[overlay])


def test_production_has_443_and_two_pods_of_the_champion(rendered):
    (server,) = get(rendered["production"], "Gateway")["spec"]["servers"]
    assert server["port"]["number"] == 443
    assert (
        get(rendered["production"], "InferenceService", "opacity-stable")["spec"]["predictor"]["minReplicas"]
        == 2
    )
    namespaces = {
        overlay: {
            item["metadata"].get("namespace")
            for item in rendered[overlay]
            if item["kind"] != "Namespace" and item["metadata"].get("namespace") != "istio-system"
        }
        for overlay in OVERLAYS
    }
    assert namespaces == {
        "laptop": {None},
        "secure laptop": {None},
        "staging": {"hounsfield-staging"},
        "production": {"hounsfield"},
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_changes_the_ingress_gateway_stands_in_its_namespace_and_selects_its_pods(rendered, overlay):
    found = [item for item in rendered[overlay] if item["metadata"].get("namespace") == "istio-system"]
    changing = {item["metadata"]["name"] for item in rendered[overlay] if item["kind"] in BESIDE_THE_GATEWAY}
    assert {item["metadata"]["name"] for item in found} == changing - {"predictors", "explainers"}
    (gateway,) = [item for item in rendered[overlay] if item["kind"] == "Gateway"]
    for item in found:
        selector = (
            item["spec"].get("workloadSelector", {}).get("labels") or item["spec"]["selector"]["matchLabels"]
        )
        assert selector == gateway["spec"]["selector"]


@pytest.mark.parametrize("overlay", ["staging", "production"])
def test_the_namespace_is_the_overlays(rendered, overlay):
    (namespace,) = [item for item in rendered[overlay] if item["kind"] == "Namespace"]
    inside = {o["metadata"].get("namespace") for o in rendered[overlay] if o["kind"] == "InferenceService"}
    assert inside == {namespace["metadata"]["name"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_route_by_weight_is_made_sticky(rendered, overlay):
    weighted = {
        route["name"]
        for route in get(rendered[overlay], "VirtualService")["spec"]["http"]
        if len(route.get("route", [])) > 1
    }
    sticky = {
        patch["match"]["routeConfiguration"]["vhost"]["route"]["name"]
        for patch in get(rendered[overlay], "EnvoyFilter", "hounsfield-study")["spec"]["configPatches"]
        if patch["patch"]["value"] == {"route": {"weighted_clusters": {"use_hash_policy": True}}}
    }
    names = {f"{door}-{kind}" for door in ("rest", "grpc", "explain") for kind in ("by-weight", "first")}
    assert sticky == weighted == names
    rules = [item for item in rendered[overlay] if item["kind"] == "DestinationRule"]
    headers = {
        rule["spec"]["trafficPolicy"]["loadBalancer"]["consistentHash"]["httpHeaderName"] for rule in rules
    }
    assert headers == {"x-hounsfield-study"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_predictions_are_logged_where_they_outlive_the_pod(rendered, overlay):
    runtime = get(rendered[overlay], "ServingRuntime")["spec"]
    (container,) = runtime["containers"]
    assert "--log_dir=/var/log/hounsfield/$(POD_NAME)" in container["args"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in runtime["volumes"]}
    claim = volumes[mounts["/var/log/hounsfield"]]["persistentVolumeClaim"]["claimName"]
    assert claim == get(rendered[overlay], "PersistentVolumeClaim", "hounsfield-log")["metadata"]["name"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_server_of_a_package_verifies_it(rendered, overlay):
    servers = [item for item in rendered[overlay] if item["kind"] in ("ServingRuntime", "InferenceService")]
    found = [container for item in servers for container in containers(item)]
    assert len(found) == 3
    for container in found:
        assert "--verify_key=/etc/hounsfield/keys/signing.pub" in container["args"]
        assert "/etc/hounsfield/keys" in {mount["mountPath"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_drift_worker_reads_the_predictors_log_and_cannot_write_it(rendered, overlay):
    pod = get(rendered[overlay], "Deployment", "opacity-drift")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts["/var/log/hounsfield"]["readOnly"] is True
    claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in pod["volumes"]}
    assert claims["log"] == {"claimName": "hounsfield-log", "readOnly": True}
    state = get(rendered[overlay], "PersistentVolumeClaim", claims["state"]["claimName"])
    assert mounts["/var/lib/hounsfield/drift"]["name"] == "state"
    assert state["spec"]["accessModes"] == ["ReadWriteOnce"]
