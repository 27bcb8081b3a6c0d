"""Who lives in the demo: two providers, their customers' domains, and the people who sign in."""

from __future__ import annotations

from dataclasses import dataclass

PASSWORD = "demo-lazaret-2026"  # noqa: S105 - printed on the screen: the demo is for looking around


@dataclass(frozen=True)
class Person:
    email: str
    name: str
    role: str = "end user"  # or: domain admin, provider admin
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Domain:
    name: str
    time_zone: str
    people: tuple[Person, ...]
    ptr_action: str = ""
    spam_action: str = "quarantine"


@dataclass(frozen=True)
class Rule:
    """A sender allowed or blocked: for one mailbox, for a domain, or (empty) for the whole provider."""

    action: str
    pattern: str
    scope: str = ""


@dataclass(frozen=True)
class Provider:
    slug: str
    name: str
    colour: str
    support: str
    admin: Person
    domains: tuple[Domain, ...]
    rules: tuple[Rule, ...]

    @property
    def hostname(self) -> str:
        return f"{self.slug}.localhost"

    @property
    def people(self) -> list[Person]:
        return [self.admin, *(person for domain in self.domains for person in domain.people)]


ACME = Provider(
    slug="acme",
    name="Acme IT",
    colour="#0f5c4c",
    support="help@acme-it.example, +49 30 5550 1234",
    admin=Person("ines@acme-it.example", "Ines Okafor", "provider admin"),
    domains=(
        Domain(
            "bluebird-bakery.example",
            "Europe/Berlin",
            (
                Person("rosa@bluebird-bakery.example", "Rosa Lindner", "domain admin"),
                Person(
                    "theo@bluebird-bakery.example",
                    "Theo Brandt",
                    aliases=("orders@bluebird-bakery.example", "bestellung@bluebird-bakery.example"),
                ),
                Person("mina@bluebird-bakery.example", "Mina Sato", aliases=("jobs@bluebird-bakery.example",)),
            ),
        ),
        Domain(
            "northwind-law.example",
            "America/New_York",
            (
                Person("harriet@northwind-law.example", "Harriet Vane", "domain admin"),
                Person("samir@northwind-law.example", "Samir Haddad", aliases=("intake@northwind-law.example",)),
                Person("june@northwind-law.example", "June Park"),
            ),
        ),
    ),
    rules=(
        Rule("block", "@bargain-barn.example"),
        Rule("allow", "offers@crumb-weekly.example", "theo@bluebird-bakery.example"),
        Rule("block", "recruiter@talent-rush.example", "northwind-law.example"),
    ),
)
GLOBEX = Provider(
    slug="globex",
    name="Globex Managed Mail",
    colour="#7a1f5c",
    support="support@globex-mail.example, +1 202 555 0143",
    admin=Person("viktor@globex-mail.example", "Viktor Lindqvist", "provider admin"),
    domains=(
        Domain(
            "hollowoak-clinic.example",
            "Europe/London",
            (
                Person("paula@hollowoak-clinic.example", "Paula Reyes", "domain admin"),
                Person("ken@hollowoak-clinic.example", "Ken Adeyemi", aliases=("reception@hollowoak-clinic.example",)),
                Person("yuki@hollowoak-clinic.example", "Yuki Mori"),
            ),
            ptr_action="quarantine",
        ),
        Domain(
            "tidewater-marine.example",
            "Australia/Sydney",
            (
                Person("omar@tidewater-marine.example", "Omar Castellano", "domain admin"),
                Person("lena@tidewater-marine.example", "Lena Fisk", aliases=("parts@tidewater-marine.example",)),
            ),
            ptr_action="score",
            spam_action="tag",
        ),
    ),
    rules=(
        Rule("block", "@miracle-pills.example"),
        Rule("allow", "@harbour-authority.example", "tidewater-marine.example"),
    ),
)
PROVIDERS = (ACME, GLOBEX)
DOMAINS = tuple(domain.name for provider in PROVIDERS for domain in provider.domains)
