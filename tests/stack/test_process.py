"""What the stack's processes are given."""

from __future__ import annotations

from portal.stack.process import find_free_port


def test_ports_of_two_lazarets_seldom_meet():
    """They were drawn from few that begin a row of 128."""
    drawn = [find_free_port() for _ in range(100)]
    assert len(set(drawn)) == 100
    assert len({port % 128 for port in drawn}) > 40
