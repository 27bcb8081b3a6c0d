"""The first thing that `./run` and `./test` do: a virtual environment with the pinned packages. Standard library only.

A stamp beside the packages says for which requirements they were installed; while it fits, nothing is installed and no
network is needed.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
VENV = PROJECT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "install.log"
REQUIREMENTS = {"run": ["requirements.txt"], "test": ["requirements.txt", "requirements-dev.txt"]}
UV = "uv==0.13.9"
PATHS = ("LAZARET_HOME", "LAZARET_TLS_CERT", "LAZARET_TLS_KEY")  # relative to where we were called
MODULES = {"run": "portal.stack", "test": "portal.stack.suite"}


class SetupError(Exception):
    """The virtual environment cannot be made; the text is a sentence for the person who started us."""


def main(arguments: list[str]) -> None:
    """Set up for `run` or `test`, then become it."""
    what, *rest = arguments
    if what == "run":
        parse_run(rest)  # --help and mistakes are answered before anything is installed
    try:
        set_up([PROJECT / name for name in REQUIREMENTS[what]])
    except SetupError as error:
        sys.exit(f"lazaret: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    for name in PATHS:
        if environment.get(name):
            environment[name] = str(Path(environment[name]).expanduser().absolute())
    os.chdir(PROJECT)
    os.execve(PYTHON, [str(PYTHON), "-m", MODULES[what], *rest], environment)  # noqa: S606


def parse_run(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./run",
        description="Start Lazaret: PostgreSQL, Valkey, gateway, courier, web, worker and beat. Ctrl-C stops it.",
        epilog="Settings are environment variables, such as LAZARET_HOME (./var), LAZARET_SMTP (127.0.0.1:2525) and "
        "LAZARET_WEB (127.0.0.1:8000); docs/configuration.md has them all.",
    )
    parser.add_argument("--empty", action="store_true", help="start without the demo's providers, people and mail")
    return parser.parse_args(arguments)


def set_up(requirements: list[Path]) -> None:
    """Make `.venv` with what `requirements` pin, unless it is so already. Raises SetupError."""
    if is_stamped(requirements):
        return
    with only_one():
        if is_stamped(requirements):  # another one was at it
            return
        if not works():
            make_venv()
        install(requirements)
        for path in requirements:
            find_stamp(path).write_text(make_stamp(path))


def find_stamp(requirements: Path) -> Path:
    return VENV / f"{requirements.name}.stamp"


def make_stamp(requirements: Path) -> str:
    """Changes with the pins and with the place: scripts and links in a virtual environment name it."""
    return f"{hashlib.sha256(requirements.read_bytes()).hexdigest()} {VENV}\n"


def is_stamped(requirements: list[Path]) -> bool:
    try:
        return all(find_stamp(path).read_text() == make_stamp(path) for path in requirements) and works()
    except OSError:
        return False


def works() -> bool:
    """Whether `.venv` has a Python that starts and is new enough; the one it was made with may be gone."""
    test = "import sys; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([PYTHON, "-c", test], check=False, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


@contextmanager
def only_one() -> Iterator[None]:
    """Two starts at once set up one after the other."""
    handle = os.open(PROJECT, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def make_venv() -> None:
    say("Making .venv")
    try:
        shutil.rmtree(VENV, ignore_errors=True)
        VENV.mkdir()
    except OSError as error:
        raise SetupError(f"{VENV} cannot be made: {error.strerror}.") from None
    uv = shutil.which("uv")
    command = [sys.executable, "-m", "venv", str(VENV)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode and uv:
        command = [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(VENV)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        raise SetupError("Python's venv module is missing or broken; on Debian or Ubuntu: apt install python3-venv.")


def install(requirements: list[Path]) -> None:
    """By uv where it can be had, else by pip."""
    total = len({line for path in requirements for line in path.read_text().splitlines() if "==" in line})
    if (uv := find_uv()) and run_installer([*uv, "pip", "install", "--python", str(PYTHON)], requirements, total):
        return
    if run_installer([str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check"], requirements, total):
        return
    tail = "\n  ".join(LOG.read_text(errors="replace").splitlines()[-5:])
    raise SetupError(f"the packages could not be installed; {LOG} says:\n  {tail}")


def find_uv() -> list[str] | None:
    if uv := shutil.which("uv"):
        return [uv]
    show_progress("Getting uv, which installs faster than pip")
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1", UV]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        return None
    return [str(PYTHON), "-m", "uv"]


def run_installer(command: list[str], requirements: list[Path], total: int) -> bool:
    """Run an installer, its output in install.log, with the count of packages so far on the screen."""
    name = "uv" if "uv" in Path(command[0]).name or "uv" in command[:3] else "pip"
    started_at = time.monotonic()
    with LOG.open("ab") as log:
        process = subprocess.Popen(
            [*command, *(word for path in requirements for word in ("-r", str(path)))],
            stdout=log,
            stderr=log,
            cwd=PROJECT,
            env={**find_sources(), **os.environ, "UV_PYTHON_DOWNLOADS": "never", "VIRTUAL_ENV": str(VENV)},
        )
        said = 0.0
        while process.poll() is None:
            time.sleep(0.1)
            seconds = time.monotonic() - started_at
            if seconds - said > (0.5 if sys.stdout.isatty() else 10):
                said = seconds
                show_progress(f"Installing packages with {name}: {count_installed()} of {total}, {seconds:.0f} s")
    done = process.returncode == 0
    seconds = time.monotonic() - started_at
    show_progress(f"Installed {total} packages with {name} in {seconds:.0f} s" if done else f"{name} failed")
    if sys.stdout.isatty():
        say("")
    return done


def find_sources() -> dict[str, str]:
    """Where pip was told to find packages and whom to trust, said to uv, which does not read pip's configuration."""
    command = [str(PYTHON), "-m", "pip", "config", "list"]
    listed = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    names = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS"}
    found = {"UV_SYSTEM_CERTS": "1"}
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):  # the environment wins
        key, _, value = line.partition("=")
        name = names.get(key.rpartition(".")[2])
        if name:
            words = value.strip("'\"").replace("\\n", " ").split()
            found[name] = ("," if name == "UV_FIND_LINKS" else " ").join(words)
    if len(found) > 1:
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # as pip does
    return found


def count_installed() -> int:
    return sum(1 for _ in VENV.glob("lib/python*/site-packages/*.dist-info"))


def show_progress(text: str) -> None:
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="", flush=True)
    else:
        say(text)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
