"""Real mail goes in; every message is delivered, held or refused, and none is changed."""

from __future__ import annotations

import re

import pytest

from quarantine.content import decompress
from tests.corpus import Sample, list_samples, unpack
from tests.world import World, below_our_lines, send_all

pytestmark = [pytest.mark.corpora, pytest.mark.e2e]

PLAIN_ADDRESS = re.compile(r"[A-Za-z0-9._+=-]{1,64}@[A-Za-z0-9.-]{1,190}")


def choose(samples: list[Sample], count: int) -> list[Sample]:
    """Evenly spread over the set, so that all its kinds of mail are there."""
    return samples[:: max(1, len(samples) // count)][:count]


def test_200_real_messages_are_all_accounted_for_byte_for_byte(world: World, corpora, tmp_path):
    samples = []
    for name in ("sa", "trec"):
        samples += choose(list_samples(corpora, name, unpack(corpora, name, tmp_path)), 100)
    letters = [
        (sample.read(), sample.mail_from if PLAIN_ADDRESS.fullmatch(sample.mail_from) else "", "kim@kestrel.test")
        for sample in samples
    ]

    sent = send_all(world.stack.smtp, letters, connections=8)

    accepted = {one.trace_id: one.raw for one in sent if one.code == 250}
    refused = [one for one in sent if 500 <= one.code < 600]
    assert len(accepted) + len(refused) == len(sent) == 200
    quarantined = {
        trace: decompress(codec, bytes(data), size=size)
        for trace, size, codec, data in world.rows(
            "SELECT m.trace_id, m.size, c.codec, c.data FROM sp_kestrel.quarantine_message m"
            " JOIN sp_kestrel.quarantine_recipient r ON r.message_id = m.id AND r.state = 'quarantined'"
            " JOIN sp_kestrel.quarantine_content c ON c.message_id = m.id WHERE m.trace_id = ANY(%s)",
            list(accepted),
        )
    }
    wanted = set(accepted) - set(quarantined)
    world.sink.wait_for(lambda: wanted <= set(world.find_delivered()), seconds=60)
    delivered = world.find_delivered()
    assert set(quarantined).isdisjoint(delivered)
    assert len(wanted) + len(quarantined) + len(refused) == 200
    assert all(quarantined[trace] == accepted[trace] for trace in quarantined)
    for trace in wanted:
        [message] = delivered[trace]
        assert below_our_lines(message, accepted[trace])
