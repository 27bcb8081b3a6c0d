"""Where PostgreSQL's data lies: below LAZARET_HOME, unless the server's user cannot reach that."""

from __future__ import annotations

import os
import pwd
import secrets
import subprocess
from pathlib import Path

from portal.stack.process import StackError

ELSEWHERE = Path("/var/lib")


def place_for(home: Path, user: pwd.struct_passwd | None) -> Path:
    """Make the directory `home` for a server that runs as `user` (None: as ourselves); return where it really is.

    PostgreSQL refuses to be root. Below a closed directory, such as /root, the user that it runs as instead cannot
    reach its data: then the directory is made in /var/lib, and `home` is a link to it.
    """
    if home.is_symlink() and not home.is_dir():
        raise StackError(f"{home} is a link to {os.readlink(home)}, which is gone; bring it back or remove the link.")
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        if user is None or can_enter(home.parent, user):
            home.mkdir(mode=0o711 if user else 0o700)
        else:
            home.symlink_to(_make_elsewhere())
    place = home.resolve()
    if user:
        os.chown(place, user.pw_uid, user.pw_gid)
        _check_reach(place, user)
    return place


def can_enter(directory: Path, user: pwd.struct_passwd) -> bool:
    """Whether `user` may use what lies in `directory`, every directory above it included."""
    command = ["test", "-x", f"{directory}/."]
    done = subprocess.run(command, check=False, cwd="/", user=user.pw_uid, group=user.pw_gid, extra_groups=[])
    return done.returncode == 0


def _make_elsewhere() -> Path:
    place = ELSEWHERE / f"lazaret-{secrets.token_hex(4)}"
    try:
        place.mkdir(mode=0o711)
    except OSError as error:
        raise StackError(
            f"PostgreSQL's user cannot reach LAZARET_HOME, and {place} cannot be made ({error.strerror});"
            " set LAZARET_HOME to a directory that every user can reach."
        ) from None
    return place


def _check_reach(home: Path, user: pwd.struct_passwd) -> None:
    if not can_enter(home, user):
        raise StackError(
            f"PostgreSQL runs as {user.pw_name} and cannot reach {home};"
            " set LAZARET_HOME to a directory that every user can reach."
        )
