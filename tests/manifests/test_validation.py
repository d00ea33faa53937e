"""`make validate`: every object against its schema, every pod against Pod Security, NSA/CISA and checkov."""

import copy
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from hounsfield.cli.main import main
from hounsfield.errors import ConfigError
from hounsfield.laptop.render import render
from hounsfield.manifests.hardening import findings
from hounsfield.manifests.pods import pods
from hounsfield.manifests.schemas import Schemas

ROOT = Path(__file__).parents[2]
CRDS = Path(os.environ.get("HOUNSFIELD_CRDS") or ROOT.parent / "shared" / "crds")
CHECKOV = ROOT / "build/checkov/bin/checkov"
SOUND = {
    "automountServiceAccountToken": False,
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "main",
            "image": "example/one:1",
            "resources": {kind: {"cpu": "1", "memory": "1Gi"} for kind in ("requests", "limits")},
            "livenessProbe": {"tcpSocket": {"port": 1}},
            "readinessProbe": {"tcpSocket": {"port": 1}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsUser": 10001,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ],
}


@pytest.fixture(scope="module")
def experiment():
    return yaml.safe_load((ROOT / "katib/experiment.yaml").read_text())


def test_every_object_of_every_overlay_is_valid(rendered, violations, experiment):
    wrong = {
        f"{overlay}: {item['kind']} {item['metadata']['name']}": found
        for overlay, objects in rendered.items()
        for item in objects
        if (found := violations(item))
    }
    assert wrong == {}
    assert violations(experiment) == []
    for item in render(ROOT / "manifests/cluster/admission"):  # an administrator's, in no overlay
        assert violations(item) == []


def test_a_typo_planted_in_each_kind_is_found(rendered, violations, experiment):
    """In the metadata, and in the part that the kind is for."""
    kinds = {item["kind"]: item for objects in rendered.values() for item in objects}
    kinds["Experiment"] = experiment
    assert len(kinds) >= 20
    for kind, item in kinds.items():
        assert any("tpyo" in found for found in violations(planted(item, "metadata"))), kind
        body = "spec" if "spec" in item else None
        assert any("tpyo" in found for found in violations(planted(item, body))), kind


def test_a_typo_in_a_trials_job_is_found(violations, experiment):
    wrong = copy.deepcopy(experiment)
    wrong["spec"]["trialTemplate"]["trialSpec"]["spec"]["pytorchReplicaSpec"] = {}
    (found,) = violations(wrong)
    assert found.startswith("$.spec.trialTemplate.trialSpec $.spec:")
    assert "pytorchReplicaSpec" in found


def test_a_typo_in_a_weight_of_katib_is_found(violations, experiment):
    wrong = copy.deepcopy(experiment)
    wrong["spec"]["parallelTrialCount"] = "two"
    (found,) = violations(wrong)
    assert found == "$.spec.parallelTrialCount: 'two' is not of type 'integer'"


def test_a_kind_without_a_schema_is_a_finding_and_not_passed_over(violations):
    (found,) = violations({"apiVersion": "example.com/v1", "kind": "Mystery", "metadata": {"name": "x"}})
    assert "knows example.com/v1 Mystery" in found


def test_a_folder_without_crds_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no file of .* holds a CustomResourceDefinition"):
        Schemas(tmp_path).violations({"apiVersion": "v1", "kind": "Pod", "metadata": {}})
    with pytest.raises(ConfigError, match="there is no folder"):
        Schemas(tmp_path / "none")


def planted(item, where):
    wrong = copy.deepcopy(dict(item))
    (wrong if where is None else wrong[where])["tpyo"] = 1
    return wrong


def test_no_overlay_has_a_finding(rendered, experiment):
    assert {overlay: findings(objects) for overlay, objects in rendered.items()} == {
        overlay: [] for overlay in rendered
    }
    assert findings([experiment]) == []
    assert len(pods([experiment])) == 1


def bad(change):
    """The sound pod with `change` applied to its spec and its container."""
    spec = copy.deepcopy(SOUND)
    change(spec, spec["containers"][0])
    return spec


def context(**fields):
    return lambda spec, container: container["securityContext"].update(fields)


def pod_field(**fields):
    return lambda spec, container: spec.update(fields)


def container_field(**fields):
    return lambda spec, container: container.update(fields)


BAD = {
    "privileged": context(privileged=True),
    "allowPrivilegeEscalation": context(allowPrivilegeEscalation=True),
    "capabilities.drop lacks ALL": context(capabilities={"drop": ["NET_RAW"]}),
    "capability SYS_ADMIN": context(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    "procMount": context(procMount="Unmasked"),
    "runAsUser is 0": context(runAsUser=0),
    "runAsNonRoot is false": context(runAsNonRoot=False),
    "no runAsUser": lambda spec, container: container["securityContext"].pop("runAsUser"),
    "seLinuxOptions": context(seLinuxOptions={"type": "spc_t"}),
    "appArmorProfile": context(appArmorProfile={"type": "Unconfined"}),
    "seccompProfile is Unconfined": context(seccompProfile={"type": "Unconfined"}),
    "seccompProfile is neither": lambda spec, container: spec["securityContext"].pop("seccompProfile"),
    "hostProcess": context(windowsOptions={"hostProcess": True}),
    "readOnlyRootFilesystem": context(readOnlyRootFilesystem=False),
    "hostNetwork": pod_field(hostNetwork=True),
    "hostPID": pod_field(hostPID=True),
    "hostIPC": pod_field(hostIPC=True),
    "is a hostPath": pod_field(volumes=[{"name": "host", "hostPath": {"path": "/"}}]),
    "is a nfs": pod_field(volumes=[{"name": "far", "nfs": {"server": "a", "path": "/"}}]),
    "sysctl": lambda spec, container: spec["securityContext"].update(sysctls=[{"name": "kernel.msgmax"}]),
    "token": pod_field(automountServiceAccountToken=True),
    "hostPort": container_field(ports=[{"containerPort": 1, "hostPort": 1}]),
    "a probe names a host": container_field(livenessProbe={"httpGet": {"host": "10.0.0.1", "port": 1}}),
    "has no version": container_field(image="example/one:latest"),
    "resources.limits.memory": container_field(resources={"requests": {"cpu": "1", "memory": "1Gi"}}),
    "holds a value": container_field(env=[{"name": "S3_SECRET_KEY", "value": "hunter2"}]),
    "container first: readOnlyRootFilesystem": pod_field(
        initContainers=[{"name": "first", "image": "example/one:1"}]
    ),
}


def isvc(spec):
    """The pod as the predictor of an InferenceService with a container of its own."""
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "spec": {"predictor": spec},
    }


def runtime(spec):
    """The pod's container in a ServingRuntime, the pod's fields in the InferenceService that uses it."""
    (container,) = spec["containers"]
    pod = {key: value for key, value in spec.items() if key != "containers"}
    model = {"modelFormat": {"name": "x"}, "runtime": "plan", "storageUri": "s3://x"}
    return {**isvc({**pod, "model": model}), "runtime": {"containers": [container]}}


def trial(spec):
    template = {"spec": spec}
    job = {"kind": "PyTorchJob", "spec": {"pytorchReplicaSpecs": {"Master": {"template": template}}}}
    return {"kind": "Experiment", "spec": {"trialTemplate": {"trialSpec": job}}}


WRAPPERS = {
    "Deployment": lambda spec: {"kind": "Deployment", "spec": {"template": {"spec": spec}}},
    "CronJob": lambda spec: {
        "kind": "CronJob",
        "spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}},
    },
    "InferenceService": isvc,
    "ServingRuntime": runtime,
    "SeldonDeployment": lambda spec: {
        "kind": "SeldonDeployment",
        "spec": {"predictors": [{"componentSpecs": [{"spec": spec}]}]},
    },
    "Experiment": trial,
}


def objects_of(wrapper, spec):
    item = {"metadata": {"name": "plan"}, **WRAPPERS[wrapper](spec)}
    inside = item.pop("runtime", None)
    return (
        [item]
        if inside is None
        else [item, {"kind": "ServingRuntime", **item, "spec": inside} | {"kind": "ServingRuntime"}]
    )


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_bad_pod_is_caught_inside_each_kind(wrapper):
    assert findings(objects_of(wrapper, SOUND)) == []
    missed = [
        name
        for name, change in BAD.items()
        if not any(name in found for found in findings(objects_of(wrapper, bad(change))))
    ]
    assert missed == []


def test_privileged_in_the_model_of_an_inference_service_is_caught():
    item, plan = objects_of("ServingRuntime", SOUND)
    item = copy.deepcopy(item)
    item["spec"]["predictor"]["model"]["securityContext"] = {"privileged": True}
    assert findings([item, plan]) == ["InferenceService plan.spec.predictor container main: privileged"]


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ({"verbs": ["*"]}, "verbs has a wildcard"),
        ({"resources": ["*"]}, "resources has a wildcard"),
        ({"verbs": ["escalate"]}, "verb escalate"),
    ],
)
def test_a_role_with_too_much_is_caught(rule, sentence):
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], **rule}]
    role = {"kind": "Role", "metadata": {"name": "all"}, "rules": rules}
    assert findings([role]) == [f"Role all: {sentence}"]


def test_a_secret_with_a_value_and_a_bare_namespace_are_caught():
    secret = {"kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}}
    assert findings([secret]) == ["Secret s: a secret's value stands in a manifest"]
    namespace = {"kind": "Namespace", "metadata": {"name": "n"}}
    assert findings([namespace]) == [
        "Namespace n: Pod Security is not enforced at restricted",
        "Namespace n: it has no LimitRange",
        "Namespace n: it has no ResourceQuota",
    ]


def test_a_pod_that_no_policy_closes_is_caught(rendered):
    objects = [item for item in rendered["production"] if item["metadata"]["name"] != "default-deny"]
    found = [sentence for sentence in findings(objects) if "opacity-drift" in sentence]
    # prometheus-to-drift still closes its ingress.
    assert found == ["Deployment opacity-drift.spec.template.spec: no NetworkPolicy closes its egress"] * (
        len(found)
    )
    gate = [sentence for sentence in findings(objects) if sentence.startswith("InferenceService")]
    assert gate == []  # each has flows of its own, both ways


def test_the_command_says_what_is_wrong_and_fails(tmp_path, capsys, violations):
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"prots": []}}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(wrong))
    crds = tmp_path / "crds"
    crds.mkdir()
    shutil.copy(CRDS / "monitoring.coreos.com_prometheusrules.yaml", crds)  # one is read faster than all
    assert main(["manifests", "validate", str(tmp_path / "x.yaml"), "--crds", str(crds)]) == 1
    assert "Service x: $.spec: Additional properties are not allowed ('prots' was" in capsys.readouterr().out


@pytest.mark.skipif(not CHECKOV.exists(), reason="checkov is not installed; run `make validate` once")
def test_checkov_finds_nothing_in_our_pods_and_something_in_each_bad_one(rendered, tmp_path):
    """What checkov has a check for; it knows no sysctls, hostProcess, procMount and the like."""
    ours = [pod.as_object(f"ours-{n}") for n, pod in enumerate(pods(rendered["production"]))]
    known = ("privileged", "allowPrivilegeEscalation", "capability SYS_ADMIN", "readOnlyRootFilesystem",
             "hostNetwork", "hostPID", "hostIPC", "token", "hostPort", "has no version",
             "resources.limits.memory", "no runAsUser", "seccompProfile is neither")  # fmt: skip
    planted_pods = [
        pod.as_object(f"bad-{n}")
        for n, name in enumerate(known)
        for pod in pods(objects_of("InferenceService", bad(BAD[name])))
    ]
    (tmp_path / "pods.yaml").write_text(yaml.safe_dump_all([*ours, *planted_pods]))
    command = [CHECKOV, "--config-file", ROOT / "manifests/.checkov.yaml", "-d", tmp_path,
               "--skip-check", "CKV_K8S_43,CKV_K8S_15,CKV2_K8S_6"]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ".ours-" not in found.stdout
    missed = [name for n, name in enumerate(known) if f".bad-{n}\n" not in found.stdout]
    assert missed == []
