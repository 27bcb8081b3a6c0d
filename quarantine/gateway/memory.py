"""The octets of messages that all sessions of a process have in hand, from the wire to the answer."""

from __future__ import annotations

from collections import Counter

from filtering.evidence.addresses import name_client

# What a large message takes at the most, in sizes of it: received, looked at, compressed, on its way to PostgreSQL.
# Measured with 50 MB: 2.0 (text) to 4.3 (base64, in many chunks), with what the connection to PostgreSQL keeps.
COPIES = 5


class Memory:
    """Room for `limit` octets at a time, of which one client may have `client_limit`.

    A message that is the only one always finds room: else one larger than the limit could never be taken.
    """

    def __init__(self, *, limit: int, client_limit: int) -> None:
        self._limit = limit
        self._client_limit = client_limit
        self._clients: Counter[str] = Counter()
        self.taken = 0

    def has_room(self, client: str, octets: int) -> bool:
        """Whether a message of so many octets would find room now; without octets: whether any would."""
        client, more = name_client(client), max(octets, 1)
        alone = not self._clients[client] or self._clients[client] + more <= self._client_limit
        return not self.taken or (alone and self.taken + more <= self._limit)

    def change(self, client: str, octets: int) -> None:
        client = name_client(client)
        self.taken += octets
        self._clients[client] += octets
        if not self._clients[client]:
            del self._clients[client]


class Share:
    """The octets of one message; whoever has it empties it in the end."""

    def __init__(self, memory: Memory, client: str) -> None:
        self._memory = memory
        self._client = client
        self._octets = 0

    def hold(self, octets: int) -> bool:
        """Have so many octets in all. False where there is no room for them: then nothing has changed."""
        held, self._octets = self._octets, 0
        self._memory.change(self._client, -held)
        fits = octets <= held or self._memory.has_room(self._client, octets)
        self._octets = octets if fits else held
        self._memory.change(self._client, self._octets)
        return fits

    def empty(self) -> None:
        self.hold(0)
