"""PostgreSQL's data where its user can reach it. Only root meets the question."""

import os
import pwd
import shutil

import pytest

from portal.stack import placement
from portal.stack.placement import place_for
from portal.stack.process import StackError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a server as another user")


@pytest.fixture
def user():
    return pwd.getpwnam("nobody")


@pytest.fixture
def closed(tmp_path):
    """A home below a directory that only root may enter."""
    directory = tmp_path / "closed"
    directory.mkdir(mode=0o700)
    return directory / "home"


@pytest.fixture
def elsewhere(monkeypatch):
    """A stand-in for /var/lib: pytest's own directories are closed."""
    place = placement.Path("/var/tmp") / f"lazaret-test-{os.getpid()}"
    place.mkdir(mode=0o755)
    monkeypatch.setattr(placement, "ELSEWHERE", place)
    yield place
    shutil.rmtree(place)


def test_in_an_open_home_the_data_is_in_the_home(elsewhere, user):
    home = elsewhere / "home" / "postgres"
    assert place_for(home, user) == home
    assert home.stat().st_uid == user.pw_uid


def test_in_a_closed_home_the_data_is_elsewhere_and_stays_there(elsewhere, closed, user):
    place = place_for(closed / "postgres", user)
    assert place.parent == elsewhere
    assert place.stat().st_uid == user.pw_uid
    assert closed.parent.stat().st_mode & 0o777 == 0o700
    assert place_for(closed / "postgres", user) == place


def test_an_ordinary_user_keeps_it_in_the_closed_home(closed):
    assert place_for(closed / "postgres", None) == closed / "postgres"


def test_data_that_is_gone_is_not_made_anew_in_silence(elsewhere, closed, user):
    place_for(closed / "postgres", user).rmdir()
    with pytest.raises(StackError, match="is a link to .*, which is gone"):
        place_for(closed / "postgres", user)
