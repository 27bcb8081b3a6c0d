"""Whose failures turn the rule off, and for how long: told to the breaker itself."""

from __future__ import annotations

import pytest

from filtering.evidence.breaker import ENOUGH, FORGIVEN_SECONDS, MAX_PARTIES, WINDOW_SECONDS, WITNESSES, Breaker
from tests.filtering.look_ups import Clock, list_alarms


def fill(breaker: Breaker, *, well: int, failed: int, name: str = "n") -> None:
    for number in range(well):
        breaker.record(f"well {number}", failed=False)
    for number in range(failed):
        breaker.record(f"{name} {number}", failed=True)


@pytest.mark.parametrize(
    ("well", "failed", "is_open"),
    [(38, 2, False), (37, 3, True), (950, 50, False), (949, 51, True), (0, 39, False), (0, 40, True)],
)
def test_more_than_a_twentieth_turns_the_rule_off(well: int, failed: int, *, is_open: bool) -> None:
    breaker = Breaker("reverse_dns", Clock())

    fill(breaker, well=well, failed=failed)

    assert breaker.is_open is is_open


def test_networks_known_to_be_broken_count_no_more_until_they_are_well() -> None:
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)
    fill(breaker, well=1000, failed=40)
    clock.now += WINDOW_SECONDS + 1
    fill(breaker, well=100, failed=40)
    assert not breaker.is_open

    fill(breaker, well=0, failed=3, name="well")
    fill(breaker, well=0, failed=3, name="new")
    assert breaker.is_open

    clock.now += FORGIVEN_SECONDS + 1
    for number in range(40):
        breaker.record(f"n {number}", failed=False)
    fill(breaker, well=0, failed=3)
    assert breaker.is_open


def simulate(breaker: Breaker, clock: Clock, networks: dict[str, int], well: int, seconds: int) -> list[int]:
    """In which seconds the rule is off, where these networks are broken and come every so many seconds."""
    off = []
    for second in range(seconds):
        clock.now += 1
        for number in range(well):
            if (second + number) % 31 == 0:
                breaker.record(f"well {number}", failed=False)
        for number, (name, interval) in enumerate(networks.items()):
            if (second + number) % interval == 0:
                breaker.record(name, failed=True)
        off += [second] if breaker.is_open else []
    return off


@pytest.mark.parametrize(
    ("well", "broken", "interval"),
    [(100, 6, 31), (100, 20, 31), (100, 30, 100), (41, 3, 31), (38, 12, 44), (30, 20, 1)],
)
def test_networks_broken_from_the_start_turn_the_rule_off_for_minutes_at_most(
    well: int, broken: int, interval: int, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)

    off = simulate(breaker, clock, {f"n {number}": interval for number in range(broken)}, well, 3600)

    assert max(off) < 240
    assert not breaker.is_open
    assert list_alarms(caplog) == ["rule_off", "rule_on"]


def test_networks_broken_on_purpose_do_not_hold_the_rule_off_on_a_quiet_night() -> None:
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)
    fill(breaker, well=ENOUGH, failed=3)
    assert breaker.is_open
    for number in range(200):
        clock.now += 15
        breaker.record(f"well {number % WITNESSES}", failed=False)
        breaker.record(f"n {number % 3}", failed=True)

    assert not breaker.is_open


def test_network_with_zones_well_and_ill_is_not_new_each_time() -> None:
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)
    fill(breaker, well=ENOUGH, failed=0)
    for _ in range(20):
        clock.now += 20
        fill(breaker, well=ENOUGH, failed=0)
        for number in range(3):
            breaker.record(f"n {number}", failed=False)
            breaker.record(f"n {number}", failed=True)

    assert not breaker.is_open


@pytest.mark.parametrize("succeeding", [0, WITNESSES - 1])
def test_resolver_that_fails_all_but_a_few_stays_ill(succeeding: int) -> None:
    """And what it said before it fell ill vouches for nobody."""
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)
    fill(breaker, well=100, failed=0)
    for _ in range(120):
        clock.now += 1
        fill(breaker, well=succeeding, failed=0)
        fill(breaker, well=0, failed=60)
    assert breaker.is_open
    off = simulate(breaker, clock, {f"n {number}": 31 for number in range(60)}, 0, 3600)

    assert len(off) == 3600


def test_resolver_that_fails_whom_it_never_failed_before_turns_the_rule_off_again() -> None:
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)
    simulate(breaker, clock, {f"n {number}": 31 for number in range(6)}, 100, 600)
    assert not breaker.is_open

    fill(breaker, well=0, failed=6, name="well")

    assert breaker.is_open


def test_dead_resolver_stays_dead_however_often_the_same_networks_come() -> None:
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)
    fill(breaker, well=0, failed=ENOUGH)
    for _ in range(30):
        clock.now += 30
        fill(breaker, well=0, failed=ENOUGH)
        assert breaker.is_open


def test_what_failed_while_the_resolver_was_dead_does_not_keep_the_rule_off() -> None:
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)
    breaker.record_death("seconds=20")
    fill(breaker, well=0, failed=ENOUGH)
    clock.now += 1
    breaker.record_life()
    assert not breaker.is_open
    fill(breaker, well=0, failed=ENOUGH)  # it was alive, and is ill
    assert breaker.is_open


def test_failures_of_one_network_do_not_keep_the_rule_off() -> None:
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)
    fill(breaker, well=0, failed=ENOUGH)
    clock.now += WINDOW_SECONDS + 1
    breaker.record("n 0", failed=True)

    assert not breaker.is_open


def test_parties_are_bounded() -> None:
    breaker = Breaker("reverse_dns", Clock())

    fill(breaker, well=0, failed=3 * MAX_PARTIES)

    assert len(breaker._outcomes) <= MAX_PARTIES
    assert len(breaker._failing) <= MAX_PARTIES
