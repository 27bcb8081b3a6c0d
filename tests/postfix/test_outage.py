"""PostgreSQL is away while Postfix relays: it keeps the mail, and hands it over once when it is asked to try again."""

from collections.abc import Iterator
from time import sleep

import pytest

from tests.faults.ground import RECOVERY_SECONDS, Ground
from tests.postfix.instance import run_postfix
from tests.postfix.test_sender import hand_over, make_letter, relay_to
from tests.running_courier import wait_until

pytestmark = pytest.mark.faults


@pytest.fixture
def world() -> Iterator[Ground]:
    world = Ground()
    try:
        world.start_gateway()
        world.wait_for_session().close()
        yield world
    finally:
        world.stop()


def test_postfix_keeps_mail_while_postgres_is_away_and_delivers_it_once(world):
    with run_postfix(**relay_to(world.port, smtp_destination_recipient_limit="50")) as postfix:
        hand_over(postfix, make_letter("plain"), sender="before@sender.test")
        postfix.wait_empty()
        world.postgres.stop()
        try:
            for number in range(5):
                hand_over(postfix, make_letter("plain"), sender=f"during-{number}@sender.test")
            wait_until(lambda: len(postfix.find_lines("status=deferred")) == 5, 30)
        finally:
            world.start_postgres()
        told = postfix.find_lines("status=deferred")
        assert all(" 451 4.3.0 " in line or " 421 4.3." in line for line in told), told
        assert not postfix.find_lines("status=bounced")

        def try_again() -> bool:
            postfix.flush()
            sleep(0.3)
            return not postfix.list_queue()

        wait_until(try_again, RECOVERY_SECONDS)
    assert sorted(world.list_senders()) == ["before@sender.test", *(f"during-{n}@sender.test" for n in range(5))]
