"""Who may reach and do what: the tables of manifests/README.md, worked out again from the objects."""

import re
from pathlib import Path

import pytest

from hounsfield.cli.main import main
from hounsfield.errors import ConfigError
from hounsfield.manifests.pods import pods
from hounsfield.manifests.reach import Peer, may_connect, selects
from hounsfield.manifests.roles import explain, grants, people

README = Path(__file__).parents[2] / "manifests/README.md"
OURS = "hounsfield"
CHANGING = {"create", "update", "patch", "delete", "deletecollection"}


def table(first_column):
    """The rows of the README's table whose first column has this head."""
    lines = README.read_text().splitlines()
    start = lines.index(next(line for line in lines if line.startswith(f"| {first_column} |")))
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def split(cell):
    return [item.strip() for item in cell.split(",") if item.strip()]


@pytest.fixture(scope="module")
def peers(rendered):
    """Every end of a connection that the table knows: ours as the rendered objects label them."""
    found = {}
    for pod in pods(rendered["production"]):
        for name, key, value in (
            ("predictor", "component", "predictor"),
            ("explainer", "component", "explainer"),
            ("gate", "hounsfield.dev/part", "gate"),
            ("drift", "app.kubernetes.io/name", "opacity-drift"),
            ("rollout", "hounsfield.dev/part", "rollout"),
        ):
            if pod.labels.get(key) == value:
                # The injector's label: these have a sidecar unless they say otherwise.
                sidecar = pod.annotations.get("sidecar.istio.io/inject") != "false"
                mesh = {"security.istio.io/tlsMode": "istio"} if sidecar else {}
                found[name] = Peer(OURS, {**pod.labels, **mesh})
    assert set(found) == {"predictor", "explainer", "gate", "drift", "rollout"}
    return found | {
        "backup": Peer(OURS, {"hounsfield.dev/part": "backup"}),
        "training": Peer(OURS, {"hounsfield.dev/part": "training"}),
        "pipeline step": Peer(OURS, {"workflows.argoproj.io/workflow": "run"}),
        "suggestion": Peer(OURS, {"katib.kubeflow.org/suggestion": "tune"}),
        "other pod": Peer(OURS, {"app": "intruder"}),
        "gateway": Peer("istio-system", {"istio": "ingressgateway"}),
        "istiod": Peer("istio-system", {"app": "istiod"}),
        "prometheus": Peer("monitoring", {"app.kubernetes.io/name": "prometheus"}),
        "dns": Peer("kube-system", {"k8s-app": "kube-dns"}),
        "object store": Peer("minio", {"app": "minio"}),
        "registry": Peer("mlflow", {"app": "mlflow"}),
        "kubeflow": Peer("kubeflow", {"app": "ml-pipeline"}),
        "katib": Peer("kubeflow", {"katib.kubeflow.org/component": "db-manager"}),
        "katib controller": Peer("kubeflow", {"katib.kubeflow.org/component": "controller"}),
        "stranger": Peer("default", {"component": "predictor", "istio": "ingressgateway"}),
        "object store outside": Peer(address="192.0.2.10"),
        "git outside": Peer(address="192.0.2.20"),
        "api server": Peer(address="192.0.2.30"),
        "internet": Peer(address="203.0.113.9"),
    }


def test_who_may_reach_whom_is_the_table(rendered, peers):
    """Every pair of ends with one of ours, and every port of the table."""
    policies = [item for item in rendered["production"] if item["kind"] == "NetworkPolicy"]
    said = {
        (source, target, int(port))
        for sources, targets, ports in table("from")
        for source in split(sources)
        for target in split(targets)
        for port in split(ports)
    }
    assert {name for flow in said for name in flow[:2]} <= set(peers)
    ports = {port for _, _, port in said} | {80, 22, 9091}
    true = {
        (source, target, port)
        for source, one in peers.items()
        for target, other in peers.items()
        for port in ports
        if OURS in (one.namespace, other.namespace)
        and may_connect(policies, one, other, port, "UDP" if port == 53 else "TCP")
    }
    served_by = {port_of: {port for _, target, port in said if target == port_of} for port_of in peers}
    # A flow is said with the ports that its target listens on; a rule may be wider than these.
    listened = {flow for flow in true if flow[2] in served_by[flow[1]]}
    assert listened - said == set()
    assert said - true == set()
    # Nobody is reached who is in no row, and nobody from outside reaches anything of ours. The stores may be
    # anywhere in the namespace kubeflow, which is Katib's too.
    assert {target for _, target, _ in true} - {"katib controller"} <= {target for _, target, _ in said}
    assert not {flow for flow in true if flow[0] in ("internet", "stranger", "other pod")} - {
        ("other pod", "dns", 53)
    }


def test_flows_are_evaluated_as_the_api_reference_has_it():
    deny = {"metadata": {"namespace": "a"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}}
    web = {"podSelector": {"matchLabels": {"app": "web"}}}
    let_in = {
        "metadata": {"namespace": "a"},
        "spec": {
            **web,
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}],
        },
    }
    client, server, far = Peer("a", {"app": "c"}), Peer("a", {"app": "web"}), Peer("b", {"app": "c"})
    assert may_connect([], far, server, 80)
    assert not may_connect([deny], far, server, 80)
    assert not may_connect([deny, let_in], client, server, 80)  # the client's own egress is closed
    let_out = {"metadata": {"namespace": "a"}, "spec": {"policyTypes": ["Egress"], "egress": [{"to": [web]}]}}
    assert may_connect([deny, let_in, let_out], client, server, 80)
    assert not may_connect([deny, let_in, let_out], client, server, 81)
    assert not may_connect([deny, let_in, let_out], far, server, 80)  # podSelector alone: the same namespace
    assert not may_connect([deny, let_in, let_out], client, server, 80, "UDP")
    block = {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}
    to_block = {**let_out, "spec": {"policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": block}]}]}}
    assert may_connect([deny, to_block], client, Peer(address="10.2.0.1"), 443)
    assert not may_connect([deny, to_block], client, Peer(address="10.1.0.1"), 443)
    assert not may_connect([deny, to_block], client, server, 443)
    test = {"key": "x", "operator": "NotIn", "values": ["1"]}
    assert selects({"matchExpressions": [test]}, {})  # NotIn holds where the label is missing
    assert not selects({"matchExpressions": [test]}, {"x": "1"})


@pytest.mark.parametrize("overlay", ["staging", "production"])
def test_what_people_may_do_is_the_table(rendered, overlay):
    said = {
        role.strip("`"): (set(split(reads)), set(split(changes.replace(" (delete only)", ""))))
        for role, reads, changes in table("role")
    }
    groups = people(rendered[overlay])
    assert groups == {role: f"hounsfield:{role}" for role in said}
    true = {}
    for role, group in groups.items():
        held = {resource: verbs for (_, resource), verbs in grants(rendered[overlay], "Group", group).items()}
        reads = {resource for resource, verbs in held.items() if verbs & {"get", "list", "watch"}}
        true[role] = (reads, {resource for resource, verbs in held.items() if verbs & CHANGING})
    assert true == said
    engineer = grants(rendered[overlay], "Group", groups["ml-engineer"])
    assert engineer["", "pods"] & CHANGING == {"delete"}


@pytest.mark.parametrize("overlay", ["staging", "production"])
def test_nobody_reads_secrets_or_opens_a_shell_or_edits_what_is_served(rendered, overlay):
    subjects = [("Group", group) for group in people(rendered[overlay]).values()]
    accounts = [item["metadata"]["name"] for item in rendered[overlay] if item["kind"] == "ServiceAccount"]
    for kind, name in [*subjects, *(("ServiceAccount", account) for account in accounts)]:
        held = grants(rendered[overlay], kind, name)
        assert not {
            ("", "secrets"),
            ("", "pods/exec"),
            ("", "pods/attach"),
            ("", "pods/ephemeralcontainers"),
        } & set(held)
        for resource in (
            "inferenceservices",
            "virtualservices",
            "seldondeployments",
            "networkpolicies",
            "roles",
        ):
            for (_, name_of), verbs in held.items():
                assert name_of != resource or not verbs & CHANGING


def test_only_the_launcher_has_a_token_and_it_may_start_jobs_only(rendered):
    accounts = {
        item["metadata"]["name"]: item["automountServiceAccountToken"]
        for item in rendered["production"]
        if item["kind"] == "ServiceAccount"
    }
    assert [name for name, mounts in accounts.items() if mounts] == ["hounsfield-launcher"]
    for name in set(accounts) - {"hounsfield-launcher"}:
        assert grants(rendered["production"], "ServiceAccount", name) == {}
    held = grants(rendered["production"], "ServiceAccount", "hounsfield-launcher")
    assert {resource for (_, resource), verbs in held.items() if verbs & CHANGING} == {
        "experiments",
        "pytorchjobs",
        "trainjobs",
    }
    # What `cluster` asks of the API beside: to suspend a stuck job, and to say why it is stuck.
    assert "patch" in held["kubeflow.org", "pytorchjobs"] & held["trainer.kubeflow.org", "trainjobs"]
    assert {("", "events"), ("", "pods"), ("", "pods/log"), ("kubeflow.org", "trials")} <= set(held)
    used = {pod.spec.get("serviceAccountName") for pod in pods(rendered["production"])}
    assert used <= set(accounts)
    assert None not in used


def test_a_clinician_may_infer_and_has_nothing_in_the_cluster(rendered):
    lines = list(explain(rendered["production"], "clinician"))
    assert "  ask: /v2/, /inference.GRPCInferenceService/, /v1/models/opacity:explain" in lines
    assert lines[-2] == "  nothing"
    assert re.search("never: secrets, pods/exec, .*pods/log", lines[-1])
    with pytest.raises(ConfigError, match="there is no role 'janitor'; there are auditor, clinician"):
        list(explain(rendered["production"], "janitor"))


def test_the_command_explains_a_role(capsys):
    overlay = str(README.parent / "overlays/staging")
    assert main(["access", "explain", "auditor", "--overlay", overlay]) == 0
    printed = capsys.readouterr().out
    assert "who: members of the group hounsfield:auditor" in printed
    assert "namespace hounsfield-staging:" in printed


@pytest.mark.parametrize("overlay", ["staging", "production"])
def test_the_mesh_refuses_plain_text_and_strangers(rendered, overlay):
    (peer,) = [item for item in rendered[overlay] if item["kind"] == "PeerAuthentication"]
    assert peer["spec"] == {"mtls": {"mode": "STRICT"}}  # no selector: the whole namespace
    policies = {
        item["metadata"]["name"]: item["spec"]
        for item in rendered[overlay]
        if item["kind"] == "AuthorizationPolicy" and item["metadata"]["namespace"] != "istio-system"
    }
    assert set(policies) == {"predictors", "explainers"}
    for policy in policies.values():
        assert policy["action"] == "ALLOW"
        assert policy["rules"][0]["from"] == [{"source": {"namespaces": ["istio-system"]}}]
        assert "/metrics" not in policy["rules"][0]["to"][0]["operation"]["paths"]
