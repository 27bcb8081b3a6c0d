"""How many daily digests a second are made and handed over, and whether one costs the same when there are many.

    python benchmarks/digests.py [--sizes 1000,10000,100000] [--items 5] [--workers 2]

Starts a PostgreSQL and a Valkey of its own in a temporary directory, makes one provider with so many mailboxes
and held messages, and lets as many processes as there are cores send what is due.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import django

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings.test")
WORK = """
import sys; sys.path.insert(0, {project!r})
import django; django.setup()
from django_tenants.utils import schema_context
from reports.digests import send_due
with schema_context("sp_bench"):
    while send_due():
        pass
"""
FILL = """
INSERT INTO people_mailbox (address, domain_id, wants_digest, next_digest_at, created_at)
SELECT 'user' || n || '-{size}@bench.test', %(domain)s, true, now() - interval '1 minute', now() - interval '2 days'
FROM generate_series(1, {size}) n;
INSERT INTO quarantine_message (trace_id, received_at, sender, header_from, subject, helo)
SELECT lpad(n || 'S{size}', 20, '0'), now() - random() * interval '1 day', 'bounce@spam.test',
       'Seller of things <seller' || n || '@spam.test>', 'An offer that is new today, number ' || n, 'spam.test'
FROM generate_series(1, {size} * {items}) n;
INSERT INTO quarantine_recipient
    (message_id, address, mailbox_id, domain_id, received_at, state, action, category, score)
SELECT m.id, b.address, b.id, %(domain)s, m.received_at, 'quarantined', 'quarantine', 'spam', 8.1
FROM (SELECT id, received_at, row_number() OVER () n FROM quarantine_message WHERE trace_id LIKE '%%S{size}') m
JOIN (SELECT id, address, row_number() OVER () n FROM people_mailbox WHERE address LIKE '%%-{size}@bench.test') b
  ON b.n = (m.n - 1) / {items} + 1;
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1000,10000")
    parser.add_argument("--items", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    import_module("tests.servers")  # starts them before Django reads where they are
    django.setup()
    domain = make_provider()
    first = 0.0
    for size in map(int, options.sizes.split(",")):
        seconds = measure(domain, size, options)
        first = first or size / seconds
        print(f"digests={size} items={options.items} seconds={seconds:.1f} a_second={size / seconds:.0f}", end=" ")
        print(f"against_first={size / seconds / first:.2f}", flush=True)


def make_provider() -> int:
    from django.core.management import call_command  # noqa: PLC0415

    from portal.tenants.provisioning import add_domain, create_provider  # noqa: PLC0415

    call_command("migrate_schemas", "--shared", verbosity=0)
    provider = create_provider(slug="bench", name="Bench", hostname="bench.localhost")
    return add_domain(provider, "bench.test", server="127.0.0.1:9").pk


def measure(domain: int, size: int, options: argparse.Namespace) -> float:
    """Seconds that the workers take for `size` digests, from start to the last commit."""
    from django.db import connection  # noqa: PLC0415
    from django_tenants.utils import schema_context  # noqa: PLC0415

    with schema_context("sp_bench"), connection.cursor() as cursor:
        cursor.execute(FILL.format(size=size, items=options.items), {"domain": domain})
        cursor.execute("ANALYZE")
    program = WORK.format(project=str(PROJECT))
    begin = time.monotonic()
    workers = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(options.workers)]
    codes = [worker.wait() for worker in workers]
    seconds = time.monotonic() - begin
    with schema_context("sp_bench"), connection.cursor() as cursor:
        cursor.execute("SELECT count(*), sum(held) FROM reports_digest d JOIN people_mailbox m ON m.id = mailbox_id"
                       " WHERE m.address LIKE %s AND state = 'sent'", [f"%-{size}@bench.test"])  # fmt: skip
        made = cursor.fetchone()
    if any(codes) or made != (size, size * options.items):
        raise SystemExit(f"the workers ended with {codes}; digests and items made: {made}")
    return seconds


if __name__ == "__main__":
    main()
