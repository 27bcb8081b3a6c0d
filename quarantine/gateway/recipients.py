"""Which recipients are taken: what the directory knows, and beyond that what the domain's recipient policy says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from portal.tenants.directory import Addressee, Directory, ServedDomain, UnknownMailbox
from portal.tenants.models import RecipientPolicy
from portal.tenants.provisioning import LOCAL_PART, MAX_LOCAL_OCTETS


@dataclass(frozen=True, slots=True)
class Undecided:
    """The domain is ours; whether it has such a mailbox cannot be said now."""

    address: str  # lower case
    domain: ServedDomain
    reason: str


class RecipientFinder:
    """Finds recipients. One for a process. `counts` says how often which way an unknown address went."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self.counts: Counter[str] = Counter()

    async def find(self, address: str) -> Addressee | UnknownMailbox | Undecided | None:
        """Whom the address means; None where the domain is not ours. Raises DirectoryUnavailable.

        An addressee without a mailbox gets one when a message for it is taken, not before.
        """
        found = await self._directory.find(address)
        if not isinstance(found, UnknownMailbox) or not is_sane(found.address):
            return found
        match found.domain.recipient_policy:
            case RecipientPolicy.ANYONE:
                self.counts["anyone"] += 1
                return found.newcomer
            case _:
                return found


def is_sane(address: str) -> bool:
    """Whether an address that nobody has set up may mean somebody: one that can be a mailbox here, and that no mail
    server takes for a route to somewhere else.
    """
    local = address.rpartition("@")[0]
    if "%" in local or "!" in local or len(local.encode()) > MAX_LOCAL_OCTETS:
        return False
    return LOCAL_PART.fullmatch(local) is not None
