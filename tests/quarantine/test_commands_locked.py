"""The operator's commands while somebody holds tables of a provider locked: at 3 a.m. nobody waits for an answer."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django_tenants.utils import schema_context

from portal.tenants.database import get_conninfo
from quarantine.models import Message
from tests.kept_mail import keep

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture
def kept() -> Message:
    """A mail at acme."""
    with schema_context("sp_acme"):
        return keep("bob@alpha.test")


@pytest.fixture
def locked(kept: Message, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What globex has is locked."""
    monkeypatch.setattr("quarantine.management.locked.WAIT_SECONDS", 1)
    with psycopg.connect(get_conninfo()) as blocker:
        blocker.execute("LOCK sp_globex.quarantine_message, sp_globex.quarantine_recipient")
        yield


@pytest.mark.parametrize("by", ["recipient", "trace_id"])
def test_the_others_are_searched_and_it_is_said_who_was_not(kept, locked, capsys, by):
    call_command("trace", "bob@alpha.test" if by == "recipient" else kept.trace_id)
    told = capsys.readouterr()
    assert told.out.startswith(f"trace {kept.trace_id}\nmail at acme,")
    assert told.err == "Not searched, as somebody holds tables of theirs locked: globex.\n"


@pytest.mark.parametrize(
    "command",
    [("trace", "gus@gamma.test", "--provider", "globex"), ("quarantine", "gus@gamma.test")],
    ids=["trace", "quarantine"],
)
def test_what_needs_the_locked_tables_ends_with_a_sentence(locked, command):
    with pytest.raises(CommandError, match="Somebody holds a table or a row locked"):
        call_command(*command)


def test_without_a_lock_nobody_is_left_out(kept, capsys):
    call_command("trace", "bob@alpha.test")
    assert capsys.readouterr().err == ""
