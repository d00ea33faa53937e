"""GitOps: an Application an environment, on a path that renders; waves, so that nothing serves unguarded."""

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
ARGOCD = ROOT / "manifests/argocd"
WAVE = "argocd.argoproj.io/sync-wave"


def wave(item):
    return int(item["metadata"].get("annotations", {}).get(WAVE, 0))


def test_each_environment_has_an_application_on_its_overlay(rendered):
    for overlay in ("staging", "production"):
        application = yaml.safe_load((ARGOCD / f"{overlay}.yaml").read_text())
        spec = application["spec"]
        assert (ROOT / "manifests" / spec["source"]["path"]).is_dir()  # its repository is this folder
        (namespace,) = [item for item in rendered[overlay] if item["kind"] == "Namespace"]
        assert spec["destination"]["namespace"] == namespace["metadata"]["name"]
        assert spec["syncPolicy"]["automated"] == {"prune": True, "selfHeal": True}
        project = yaml.safe_load((ARGOCD / "project.yaml").read_text())["spec"]
        allowed = {destination["namespace"] for destination in project["destinations"]}
        used = {
            item["metadata"].get("namespace", namespace["metadata"]["name"]) for item in rendered[overlay]
        }
        assert used <= allowed


def test_policies_stand_before_servers_and_servers_before_routes(rendered):
    for overlay in ("staging", "production"):
        at = {}
        for item in rendered[overlay]:
            at.setdefault(item["kind"], set()).add(wave(item))
        assert all(len(waves) == 1 for waves in at.values()), at
        order = [
            "Namespace",
            "NetworkPolicy",
            "InferenceService",
            "DestinationRule",
            "VirtualService",
            "PrometheusRule",
        ]
        waves = [next(iter(at[kind])) for kind in order]
        assert waves == sorted(set(waves))
        assert at["Role"] == at["ServiceAccount"] == at["PeerAuthentication"] == at["NetworkPolicy"]
    assert {wave(item) for item in rendered["laptop"]} == {0}
