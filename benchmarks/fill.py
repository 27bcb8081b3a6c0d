"""Make domains d1.test, d2.test, ... with a mailbox bob@ each, in so many providers, in the Lazaret of LAZARET_HOME.

LAZARET_HOME=... python benchmarks/fill.py --domains 1000 --providers 1000 --server 127.0.0.1:2526
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

import django

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", type=int, default=1000)
    parser.add_argument("--providers", type=int, default=1000, help="the domains are theirs in turn")
    parser.add_argument("--server", required=True, metavar="HOST:PORT", help="the mail server of each domain")
    options = parser.parse_args()
    import_module("portal.settings").choose()
    django.setup()
    provisioning = import_module("portal.tenants.provisioning")
    providers = [
        provisioning.create_provider(slug=f"p{number}", name=f"Provider {number}", hostname=f"p{number}.localhost")
        for number in range(options.providers)
    ]
    for number in range(options.domains):
        provider = providers[number % len(providers)]
        provisioning.add_domain(provider, f"d{number}.test", server=options.server)
        provisioning.add_mailbox(provider, f"bob@d{number}.test")


if __name__ == "__main__":
    main()
