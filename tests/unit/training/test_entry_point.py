"""`hounsfield train` where an operator, torchrun or a person starts it."""

import socket
import subprocess
import sys

import pytest

from hounsfield.cli.main import main as hounsfield
from hounsfield.errors import ConfigError, TrainingError
from hounsfield.training.launcher import is_pod, run_pod, train_arguments
from hounsfield.training.main import parser
from hounsfield.training.params import PRESETS, TrainingParams

SMALL = ["--epochs=1", "--batch-size=8", "--learning-rate=1e-3"]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_help_names_every_parameter_with_its_presets_and_shows_examples(capsys):
    with pytest.raises(SystemExit) as ended:
        hounsfield(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    for name in TrainingParams.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in said
    assert "default 16 (standard 40; full 120)" in said
    assert "torchrun --nproc-per-node 2 -m hounsfield.training.main" in said
    assert "command: [hounsfield, train," in said


def test_the_arguments_of_a_job_are_those_that_the_entry_point_reads():
    arguments = train_arguments(
        "s3://a/t", "s3://a/m", {"preset": "full"}, "s3://a/c", "http://m", {"k": "v=w"}
    )
    options = parser().parse_args(arguments)
    assert (options.tensors, options.out, options.checkpoints) == ("s3://a/t", "s3://a/m", "s3://a/c")
    assert options.architecture == PRESETS["full"]["architecture"]
    assert options.tag == ["k=v=w"]
    with pytest.raises(ConfigError, match="unknown key 'epoch'"):
        train_arguments("t", "m", {"epoch": 3})


def test_a_pod_is_known_by_what_its_operator_says_and_a_worker_is_none():
    assert is_pod({"PET_NNODES": "2", "RANK": "1"})  # a PyTorchJob
    assert is_pod({"PET_RDZV_ENDPOINT": "job-worker-0:29500"})  # an elastic one
    assert not is_pod({"PET_NNODES": "2", "TORCHELASTIC_RUN_ID": "none"})
    assert not is_pod({"RANK": "0", "WORLD_SIZE": "2"})


def test_two_pods_train_one_network(tensors, tmp_path):
    """Two times the command of a pod, each told of its part in PET_*, as the operators do."""
    port = free_port()
    common = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_MASTER_PORT": port}
    program = "from hounsfield.training.main import main; import sys; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, f"--tensors={tensors}", f"--out={tmp_path / 'm'}", *SMALL]
    pods = [
        subprocess.Popen(
            command,
            env=environment(common | {"PET_NODE_RANK": str(rank), "PET_MASTER_ADDR": "127.0.0.1"}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [pod.communicate(timeout=400)[0] for pod in pods]
    finally:
        for pod in pods:
            pod.kill()
    assert [pod.returncode for pod in pods] == [0, 0], said
    assert "epoch=0" in said[0]
    assert "epoch=0" not in said[1]
    assert (tmp_path / "m" / "training.json").exists()


def test_the_sentence_of_a_pods_process_is_the_pods(tensors, tmp_path, monkeypatch):
    for name, value in {"PET_NNODES": "1", "PET_NODE_RANK": "0", "PET_MASTER_PORT": free_port()}.items():
        monkeypatch.setenv(name, value)
    lines = []
    with pytest.raises(TrainingError, match=r"^batch_size 1 cannot be dealt to 1 processes"):
        run_pod([f"--tensors={tensors}", f"--out={tmp_path / 'm'}", "--batch-size=1"], {}, lines.append)


def environment(more: dict[str, str]) -> dict[str, str]:
    import os

    return os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"} | more
