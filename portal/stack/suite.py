"""`./test`: the static checks, then every test. With arguments, only pytest with them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

from portal.stack.bootstrap import PROJECT, PYTHON, VENV

CHECKS = {
    "ruff format": ("-m", "ruff", "format", "--check", "--quiet", "."),
    "ruff check": ("-m", "ruff", "check", "--quiet", "."),
    "mypy": ("-m", "mypy"),
    "lint-imports": (str(VENV / "bin" / "lint-imports"),),
}
ALL_TESTS = ("-n", "2", "--dist", "loadfile")  # two at a time: much of the suite waits for other processes
STACK_VARIABLES = ("DATABASE_URL", "BROKER_URL", "CACHE_URL")


def main(arguments: list[str]) -> None:
    """Become pytest at the end, so that its last line is ours."""
    environment = make_environment()
    if not arguments:
        failed = [name for name, command in CHECKS.items() if not run_check(name, command, environment)]
        if failed:
            sys.exit(f"lazaret: not clean: {', '.join(failed)}; the tests were not run.")
    sys.stdout.flush()
    os.execve(PYTHON, [str(PYTHON), "-m", "pytest", *(arguments or ALL_TESTS)], environment)  # noqa: S606


def make_environment() -> dict[str, str]:
    """The tests bring servers and settings of their own: nothing of the caller's counts."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in STACK_VARIABLES and not name.startswith("LAZARET_")
    }
    return kept | {"DJANGO_SETTINGS_MODULE": "portal.settings.test"}


def run_check(name: str, command: tuple[str, ...], environment: dict[str, str]) -> bool:
    """Whether a check is content; what it says is shown only when it is not."""
    started_at = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [str(PYTHON), *command],
            check=False,
            cwd=PROJECT,
            env=environment | {"LAZARET_HOME": home, "PYTHONWARNINGS": "ignore::RuntimeWarning"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    outcome = "ok" if done.returncode == 0 else "failed"
    print(f"  {name.ljust(15)} {outcome} ({time.monotonic() - started_at:.1f} s)", flush=True)
    if done.returncode:
        print(done.stdout, flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    main(sys.argv[1:])
