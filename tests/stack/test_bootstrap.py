"""Setting up: once, and with a sentence where it cannot be done."""

import os
import subprocess

import pytest

from portal.stack import bootstrap
from tests.running import PROJECT


@pytest.fixture
def venv(tmp_path, monkeypatch):
    """A place for a virtual environment, whose Python is not asked for more than to start."""
    place = tmp_path / ".venv"
    monkeypatch.setattr(bootstrap, "VENV", place)
    monkeypatch.setattr(bootstrap, "PYTHON", place / "bin" / "python")
    (place / "bin").mkdir(parents=True)
    bootstrap.PYTHON.symlink_to(PROJECT / ".venv" / "bin" / "python")
    return place


@pytest.fixture
def installed(monkeypatch):
    """What was installed, instead of installing it."""
    calls = []
    monkeypatch.setattr(bootstrap, "install", calls.append)
    return calls


@pytest.fixture
def pins(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("django==5.2.19\n")
    return path


def test_a_second_start_installs_nothing(venv, installed, pins):
    bootstrap.set_up([pins])
    bootstrap.set_up([pins])
    assert installed == [[pins]]


def test_a_changed_pin_is_installed(venv, installed, pins):
    bootstrap.set_up([pins])
    pins.write_text("django==5.2.20\n")
    bootstrap.set_up([pins])
    assert len(installed) == 2


def test_a_python_that_is_gone_is_replaced(venv, installed, pins):
    bootstrap.set_up([pins])
    bootstrap.PYTHON.unlink()
    bootstrap.PYTHON.symlink_to("/nowhere/python")
    bootstrap.set_up([pins])
    assert bootstrap.works()
    assert len(installed) == 2


def test_a_missing_venv_module_is_one_sentence(venv, pins, monkeypatch):
    monkeypatch.setattr(bootstrap.sys, "executable", "/bin/false")
    monkeypatch.setenv("PATH", str(venv))  # no uv either
    bootstrap.PYTHON.unlink()
    with pytest.raises(bootstrap.SetupError, match="apt install python3-venv"):
        bootstrap.set_up([pins])


def test_packages_that_cannot_be_had_are_one_sentence_and_no_stamp(venv, pins, monkeypatch):
    monkeypatch.setattr(bootstrap, "find_uv", lambda: None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    pins.write_text("lazaret-no-such-package==1\n")
    with pytest.raises(bootstrap.SetupError, match="the packages could not be installed"):
        bootstrap.set_up([pins])
    assert not bootstrap.find_stamp(pins).exists()


def test_uv_is_told_what_pip_is_told(venv, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels /more")
    sources = bootstrap.find_sources()
    assert sources["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    assert sources["UV_FIND_LINKS"] == "/wheels,/more"


@pytest.mark.parametrize("script", ["run", "test"])
def test_without_a_python_that_is_new_enough_it_says_so(tmp_path, script):
    for tool in ("dirname", "readlink"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", PROJECT / script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == ("lazaret: Python 3.11 or newer is needed, and none was found; set LAZARET_PYTHON to one.\n")


def test_the_scripts_do_not_mind_where_they_are_called_or_by_which_name(tmp_path):
    link = tmp_path / "with space"
    link.symlink_to(PROJECT / "run")
    done = subprocess.run(
        [link, "--help"], cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ./run")
