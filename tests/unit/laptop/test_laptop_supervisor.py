"""What supervisord is told, and what it could not read back."""

import configparser
import shlex

import pytest

from hounsfield.errors import PlatformError
from hounsfield.laptop.processes import Process
from hounsfield.laptop.supervisor import Supervisor


def test_a_command_survives_spaces_and_percent_signs(tmp_path):
    supervisor = Supervisor(tmp_path / "run")
    supervisor.run.mkdir()
    supervisor.write([Process("one", ("python", "-m", "x", "--dir=/a b/100%"), {"KEY": "50%"})], tmp_path)
    parser = configparser.ConfigParser(inline_comment_prefixes=(";", "#"))  # as supervisord reads it
    parser.read(supervisor.config)
    section = parser["program:one"]
    assert shlex.split(section["command"]) == ["python", "-m", "x", "--dir=/a b/100%"]
    assert section["environment"] == 'KEY="50%"'
    assert section["directory"] == str(tmp_path)
    assert supervisor.config.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("word", ['a"b', "a;b", "a#b", "a\nb"])
def test_a_character_that_supervisord_cannot_read_back_is_refused(tmp_path, word):
    supervisor = Supervisor(tmp_path / "run")
    supervisor.run.mkdir()
    with pytest.raises(PlatformError, match="supervisord cannot take"):
        supervisor.write([Process("one", ("python", word))], tmp_path)


def test_a_long_home_gets_its_socket_elsewhere_and_always_the_same(tmp_path):
    long = tmp_path / ("x" * 120) / "run"
    assert len(str(Supervisor(long).socket)) <= 100
    assert Supervisor(long).socket == Supervisor(long).socket
    assert Supervisor(long).socket != Supervisor(long.parent / "other").socket


def test_no_daemon_is_not_running(tmp_path):
    assert Supervisor(tmp_path).is_running() is False
    assert Supervisor(tmp_path).shut_down() is False
