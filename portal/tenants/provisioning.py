"""Making providers, domains, mailboxes and users: every way in (commands, API, pages) comes through here.

Every function does all of its work or none, and raises ProvisioningError with one sentence for the person who asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import NON_FIELD_ERRORS, ImproperlyConfigured, ValidationError
from django.db import IntegrityError, connection, models, transaction
from django_tenants.utils import schema_context, schema_exists

from portal.settings.environment import Address, parse_address
from portal.tenants.database import get_schema
from portal.tenants.loops import is_own_address
from portal.tenants.models import Hostname, MailDomain, RecipientPolicy, ServiceProvider, slug_validator
from portal.tenants.people.models import DomainAdmin, Mailbox, MailboxAlias, User

MAX_LOGO_BYTES = 262_144
LOGO_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
HOSTNAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
# A dot-atom (RFC 5321 4.1.2), with UTF-8 (RFC 6531 3.3); no quoted strings.
LOCAL_PART = re.compile(r"[^\s\x00-\x20\x7f()<>\[\]:;@\\,.\"]+(\.[^\s\x00-\x20\x7f()<>\[\]:;@\\,.\"]+)*")
MAX_LOCAL_OCTETS = 64  # RFC 5321 4.5.3.1.1


class ProvisioningError(Exception):
    """What was asked for cannot be made; the text is a sentence that says why."""


def get_provider(slug: str) -> ServiceProvider:
    """The provider by its short name."""
    try:
        provider: ServiceProvider = ServiceProvider.objects.exclude(schema_name="public").get(slug=slug)
    except ServiceProvider.DoesNotExist:
        known = ServiceProvider.objects.exclude(schema_name="public").order_by("slug").values_list("slug", flat=True)
        hint = f"there are: {', '.join(known[:20])}" if known else "there is none yet"
        raise ProvisioningError(f"There is no provider {slug!r}; {hint}.") from None
    return provider


def create_provider(
    *, slug: str, name: str, hostname: str, colour: str = "", logo: bytes | None = None, support: str = ""
) -> ServiceProvider:
    """Make a provider with its schema and the hostname of its portal. `logo` is a PNG or JPEG file's content."""
    provider = ServiceProvider(slug=slug, schema_name=f"sp_{slug}", name=name.strip(), support=support.strip())
    if colour:
        provider.colour = colour.lower()
    if logo:
        provider.logo, provider.logo_type = logo, find_logo_type(logo)
    _tell(lambda: slug_validator(slug), label="Slug: ")
    address = check_hostname(hostname)
    if ServiceProvider.objects.filter(slug=slug).exists():
        raise ProvisioningError(f"There is a provider {slug!r} already.")
    if schema_exists(provider.schema_name):  # it may hold another's mail
        raise ProvisioningError(f"The database has a schema {provider.schema_name} already; choose another slug.")
    _check(provider)
    with _all_or_nothing(), schema_context("public"):
        provider.save(verbosity=0)
        Hostname.objects.create(domain=address, tenant=provider, is_primary=True)
    return provider


def find_logo_type(logo: bytes) -> str:
    if len(logo) > MAX_LOGO_BYTES:
        raise ProvisioningError(f"The logo has {len(logo)} bytes; at most {MAX_LOGO_BYTES} are allowed.")
    for magic, kind in LOGO_TYPES.items():
        if logo.startswith(magic):
            return kind
    raise ProvisioningError("The logo is neither a PNG nor a JPEG file.")


def check_hostname(hostname: str) -> str:
    """The portal's hostname as it will be looked up: lower case, no trailing dot, free."""
    wanted = hostname.strip().lower().rstrip(".")
    if not HOSTNAME.fullmatch(wanted):
        raise ProvisioningError(f"{hostname!r} is no hostname such as quarantine.example.com.")
    if wanted.startswith("www."):
        raise ProvisioningError(f"Give the hostname without www.: {wanted.removeprefix('www.')} answers to both.")
    if Hostname.objects.filter(domain=wanted).exists():
        raise ProvisioningError(f"The hostname {wanted} is taken by a provider already.")
    return wanted


def add_domain(
    provider: ServiceProvider,
    name: str,
    *,
    server: str,
    time_zone: str = "UTC",
    recipients: str = RecipientPolicy.KNOWN,
) -> MailDomain:
    """Give the provider a mail domain whose mail goes to `server`, written host:port or [IPv6]:port.

    `recipients` is a RecipientPolicy.
    """
    wanted = name.strip().lower().rstrip(".")
    if not wanted.isascii():
        raise ProvisioningError(f"Write the domain {name!r} in its ASCII form, which begins with xn--.")
    if MailDomain.objects.filter(name=wanted).exists():
        raise ProvisioningError(f"The domain {wanted} is taken by a provider already.")
    address = parse_server(server)
    domain = MailDomain(
        name=wanted,
        provider=provider,
        server_host=address.host,
        server_port=address.port,
        time_zone=time_zone,
        recipient_policy=recipients,
    )
    _check(domain)
    with _all_or_nothing(), schema_context("public"):
        domain.save()
    return domain


def change_domain(provider: ServiceProvider, name: str, *, server: str = "", recipients: str = "") -> MailDomain:
    """Give the domain another `server`, or other `recipients` (a RecipientPolicy). What is empty stays as it is."""
    domain = get_domain(provider, name)
    changed = []
    if server:
        address = parse_server(server)
        domain.server_host, domain.server_port = address.host, address.port
        changed += ["server_host", "server_port"]
    if recipients:
        domain.recipient_policy = recipients
        changed.append("recipient_policy")
    if not changed:
        raise ProvisioningError(f"Say what is to change about {domain}.")
    _check(domain)
    domain.save(update_fields=changed)  # what somebody else changes meanwhile stays
    return domain


def parse_server(server: str) -> Address:
    """Read a customer's mail server; ourselves are refused, or every message would go round for ever."""
    try:
        address = parse_address("The mail server", server)
    except ImproperlyConfigured as error:
        raise ProvisioningError(str(error)) from None
    is_address = ":" in address.host and re.fullmatch(r"[0-9a-f:.]+", address.host.lower())
    if not is_address and not HOSTNAME.fullmatch(address.host.lower().rstrip(".")):
        raise ProvisioningError(f"{address.host!r} is neither a hostname nor an address.")
    if is_own_address(address.host, address.port):
        raise ProvisioningError(f"{address} is this gateway itself: its mail would go round in a loop.")
    return address


def add_user(
    provider: ServiceProvider,
    email: str,
    *,
    password: str,
    name: str = "",
    provider_admin: bool = False,
    domains: Iterable[str] = (),
) -> User:
    """Make somebody who can sign in, and who looks after the given domains of the provider."""
    administered = [get_domain(provider, domain) for domain in domains]
    user = User(email=email.strip().lower(), name=name.strip(), is_provider_admin=provider_admin)
    with _all_or_nothing(), schema_context(provider.schema_name):
        if User.objects.filter(email=user.email).exists():
            raise ProvisioningError(f"{user.email} is a user of {provider} already.")
        _tell(lambda: validate_password(password, user))
        user.set_password(password)
        _check(user)
        user.save()
        DomainAdmin.objects.bulk_create(DomainAdmin(user=user, domain_id=domain.pk) for domain in administered)
    return user


def get_domain(provider: ServiceProvider, name: str) -> MailDomain:
    """A domain of this provider by its name; another provider's is none."""
    wanted = name.strip().lower().rstrip(".")
    try:
        return MailDomain.objects.get(provider=provider, name=wanted)
    except MailDomain.DoesNotExist:
        raise ProvisioningError(f"{provider} has no domain {wanted!r}.") from None


def get_user(provider: ServiceProvider, email: str) -> User:
    """A user of this provider by address."""
    try:
        with schema_context(provider.schema_name):
            return User.objects.get(email=email.strip().lower())
    except User.DoesNotExist:
        raise ProvisioningError(f"{provider} has no user {email!r}.") from None


def add_mailbox(
    provider: ServiceProvider, address: str, *, owner: User | None = None, aliases: Iterable[str] = ()
) -> Mailbox:
    """Make a mailbox in a domain of the provider. Address and aliases must all be free."""
    wanted = parse_mail_address(address)
    others = list(dict.fromkeys(parse_mail_address(alias) for alias in aliases))
    if wanted in others:
        raise ProvisioningError(f"{wanted} cannot be its own alias.")
    domain = get_domain(provider, wanted.rpartition("@")[2])
    for alias in others:
        get_domain(provider, alias.rpartition("@")[2])
    with _all_or_nothing(), schema_context(provider.schema_name):
        for taken in sorted([wanted, *others]):  # in one order: two who ask at once wait, and do not deadlock
            check_address_is_free(taken)
        mailbox = Mailbox(address=wanted, domain_id=domain.pk, owner=owner)
        _check(mailbox)
        mailbox.save()
        MailboxAlias.objects.bulk_create(MailboxAlias(address=alias, mailbox=mailbox) for alias in others)
    return mailbox


def parse_mail_address(value: str) -> str:
    """An address in the form in which it is kept and looked up: lower case."""
    address = value.strip().lower()
    local, at, domain = address.rpartition("@")
    if not at or not domain or not LOCAL_PART.fullmatch(local) or len(local.encode()) > MAX_LOCAL_OCTETS:
        raise ProvisioningError(f"{value!r} is no mail address such as someone@example.com.")
    return address


def check_address_is_free(address: str) -> None:
    """Raise where the address is a mailbox or an alias in the present schema; else nobody takes it before the present
    transaction ends."""
    lock_address(address)
    if Mailbox.objects.filter(address=address).exists():
        raise ProvisioningError(f"There is a mailbox {address} already.")
    if alias := MailboxAlias.objects.filter(address=address).select_related("mailbox").first():
        raise ProvisioningError(f"{address} is an alias of {alias.mailbox} already.")


def lock_address(address: str) -> None:
    """Let nobody else check this address until our transaction ends: no constraint spans mailboxes and aliases."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"{get_schema()} {address}"])


def _check(row: models.Model) -> None:
    _tell(row.full_clean)


def _tell(validate: Callable[[], None], *, label: str = "") -> None:
    """Run a validation; say what is wrong first, in one sentence."""
    try:
        validate()
    except ValidationError as error:
        problems = error.messages
        if hasattr(error, "error_dict"):
            field, problems = next(iter(error.message_dict.items()))
            label = "" if field == NON_FIELD_ERRORS else field.replace("_", " ").capitalize() + ": "
        raise ProvisioningError(label + " ".join(problems)) from None


@contextmanager
def _all_or_nothing() -> Iterator[None]:
    """One transaction; two who make the same thing at once get the sentence too."""
    try:
        with transaction.atomic():
            yield
    except IntegrityError:
        raise ProvisioningError("Somebody else made the same just now.") from None
