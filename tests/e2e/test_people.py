"""What people do: sign in, release, ask for their report. A real browser, real mail, a real mail server behind it."""

from __future__ import annotations

import email
import email.policy
import uuid

import pytest

from tests.world import PASSWORD, World, below_our_lines, make_mail, make_spam

pytestmark = pytest.mark.e2e


def test_a_user_releases_five_messages_in_one_action_and_all_are_delivered(world: World, browser, sign_in):
    mark = uuid.uuid4().hex[:8]
    wanted = [make_spam(f"{mark} offer {number}") for number in range(5)]
    for raw in wanted:
        assert world.send(raw, to="bob@acme.test").code == 250
    assert world.send(make_spam(f"{mark} for carol alone"), to="carol@acme.test").code == 250

    page = browser.new_page()
    sign_in(page, world.url("acme"), "bob@acme.test", PASSWORD)
    page.goto(f"{world.url('acme')}/?q={mark}")
    assert "for carol alone" not in page.content()
    boxes = page.get_by_role("checkbox", name=f"{mark} offer")
    assert boxes.count() == 5
    for box in boxes.all():
        box.check()
    page.get_by_role("button", name="Release").first.click()

    def arrived() -> list:
        return [message for message in world.sink.messages if mark.encode() in message.raw]

    world.sink.wait_for(lambda: len(arrived()) == 5, seconds=30)
    assert sorted(raw for raw in wanted if any(below_our_lines(one, raw) for one in arrived())) == sorted(wanted)
    assert {one.recipients[0] for one in arrived()} == {"<bob@acme.test>"}


def test_a_user_of_one_provider_cannot_sign_in_at_another(world: World, browser, sign_in):
    page = browser.new_page()
    sign_in(page, world.url("globex"), "bob@acme.test", PASSWORD)
    assert "/sign-in/" in page.url
    page.goto(f"{world.url('globex')}/")
    assert "/sign-in/" in page.url


def test_the_report_asked_for_in_the_portal_arrives_within_5_seconds(world: World, browser, sign_in):
    mark = uuid.uuid4().hex[:8]
    assert world.send(make_spam(f"{mark} win a boat"), to="dan@acme.test").code == 250
    page = browser.new_page()
    sign_in(page, world.url("acme"), "dan@acme.test", PASSWORD)
    page.get_by_role("button", name="Send the report again").first.click()

    world.sink.wait_for(lambda: bool(find_reports(world, "dan@acme.test")), seconds=5)
    [report] = find_reports(world, "dan@acme.test")
    assert mark in report.get_body(("plain",)).get_content()
    assert mark in report.get_body(("html",)).get_content()
    assert f"{world.url('acme')}/d/" in report.get_body(("plain",)).get_content()


def test_the_daily_digest_arrives_at_its_hour(world: World):
    mark = uuid.uuid4().hex[:8]
    assert world.send(make_spam(f"{mark} cheap watches"), to="eve@acme.test").code == 250
    assert world.send(make_mail(f"{mark} good mail"), to="eve@acme.test").code == 250
    world.rows(
        "UPDATE sp_acme.people_mailbox SET next_digest_at = now() - interval '1 second' WHERE address = 'eve@acme.test'"
    )

    world.sink.wait_for(lambda: bool(find_reports(world, "eve@acme.test")), seconds=90)
    [report] = find_reports(world, "eve@acme.test")
    text = report.get_body(("plain",)).get_content()
    assert f"{mark} cheap watches" in text
    assert "good mail" not in text
    assert "Acme" in report["From"]
    [(state, held)] = world.rows(
        "SELECT d.state, d.held FROM sp_acme.reports_digest d JOIN sp_acme.people_mailbox m ON m.id = d.mailbox_id"
        " WHERE m.address = 'eve@acme.test' AND d.kind = 'daily'"
    )
    assert (state, held) == ("sent", 1)


def find_reports(world: World, address: str) -> list:
    return [
        email.message_from_bytes(one.raw, policy=email.policy.default)
        for one in list(world.sink.messages)
        if one.recipients == [f"<{address}>"] and b"\r\nAuto-Submitted: auto-generated\r\n" in one.raw
    ]
