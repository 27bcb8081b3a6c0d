"""Who may see and do what. Every object of every page is taken from one of these, for every verb."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from django.contrib.auth.views import redirect_to_login
from django.db import connection
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import get_object_or_404

from portal.tenants.models import MailDomain, ServiceProvider
from portal.tenants.people.models import DomainAdmin, Mailbox, PtrException, SenderRule, User
from quarantine.queries import visible_to

__all__ = [
    "admin_only",
    "get_provider",
    "get_user",
    "is_admin",
    "list_domains",
    "list_mailboxes",
    "list_own_mailboxes",
    "list_ptr_exceptions",
    "list_rules",
    "looks_after",
    "of_row",
    "provider_admin_only",
    "signed_in",
    "visible_ptr_exceptions",
    "visible_to",
]

View = Callable[..., HttpResponse]


def get_user(request: HttpRequest) -> User:
    """The signed-in user of a view that is `signed_in`."""
    return cast(User, request.user)


def get_provider(request: HttpRequest) -> ServiceProvider:
    """The provider whose hostname was asked."""
    return cast(ServiceProvider, request.tenant)  # type: ignore[attr-defined]


def is_admin(user: User) -> bool:
    """Whether the user looks after a domain or the whole provider."""
    return user.is_provider_admin or bool(_list_domain_ids(user))


def looks_after(user: User, domain_id: int) -> bool:
    """Whether the user is an admin of that domain."""
    return user.is_provider_admin or domain_id in _list_domain_ids(user)


def list_domains(user: User) -> QuerySet[MailDomain]:
    """The domains that the user looks after. The table is shared: the provider is always asked for."""
    domains = MailDomain.objects.filter(provider__schema_name=connection.schema_name)  # type: ignore[attr-defined]
    if user.is_provider_admin:
        return domains
    return domains.filter(pk__in=_list_domain_ids(user))


def list_own_mailboxes(user: User) -> QuerySet[Mailbox]:
    return Mailbox.objects.filter(owner=user)


def list_mailboxes(user: User) -> QuerySet[Mailbox]:
    """The user's own mailboxes, and those of the domains that the user looks after."""
    if user.is_provider_admin:
        return Mailbox.objects.all()
    return Mailbox.objects.filter(Q(owner=user) | Q(domain_id__in=_list_domain_ids(user)))


def list_rules(user: User) -> QuerySet[SenderRule]:
    """The allow and block rules that the user may read and remove."""
    if user.is_provider_admin:
        return SenderRule.objects.all()
    domains = _list_domain_ids(user)
    return SenderRule.objects.filter(
        Q(mailbox__owner=user) | Q(mailbox__domain_id__in=domains) | Q(domain_id__in=domains)
    )


def list_ptr_exceptions(user: User) -> QuerySet[PtrException]:
    """The exceptions from the reverse DNS rule that an admin may end: of the domains that they look after."""
    if user.is_provider_admin:
        return PtrException.objects.all()
    return PtrException.objects.filter(domain_id__in=_list_domain_ids(user))


def visible_ptr_exceptions(user: User) -> QuerySet[PtrException]:
    """Those, and the ones that hold for their domains because they hold for all."""
    own = list_ptr_exceptions(user)
    return own | PtrException.objects.filter(domain_id=None) if is_admin(user) else own


def _list_domain_ids(user: User) -> list[int]:
    """Asked once a request: the user's object lives no longer."""
    kept: dict[str, Any] = user.__dict__
    if "_domain_ids" not in kept:
        kept["_domain_ids"] = list(DomainAdmin.objects.filter(user=user).values_list("domain_id", flat=True))
    ids: list[int] = kept["_domain_ids"]
    return ids


def signed_in(view: View) -> View:
    """Send strangers to the sign-in page, whatever the verb."""

    @wraps(view)
    def check(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.user.is_authenticated:
            return view(request, *args, **kwargs)
        page = request.get_full_path() if request.method in {"GET", "HEAD"} else "/"
        response = redirect_to_login(page)
        if not getattr(request, "htmx", False):
            return response
        return HttpResponse(status=204, headers={"HX-Redirect": response.url})

    return check


def of_row(list_rows: Callable[[User], QuerySet[Any]], *verbs: str) -> Callable[[View], View]:
    """The view is handed the row that its address names, taken from what the viewer may see.

    What is not there, or not theirs, is a 404 on every verb; a verb that is not among `verbs` (HEAD goes with GET) is
    a 405 for those who may see the row.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def check(request: HttpRequest, pk: int) -> HttpResponse:
            row = get_object_or_404(list_rows(get_user(request)), pk=pk)
            if ("GET" if request.method == "HEAD" else request.method) not in verbs:
                return HttpResponseNotAllowed(verbs)
            return view(request, row)

        return signed_in(check)

    return decorate


def admin_only(view: View) -> View:
    """For admins of domains and of the provider; for others there is no such page."""

    @wraps(view)
    def check(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not is_admin(get_user(request)):
            raise Http404
        return view(request, *args, **kwargs)

    return signed_in(check)


def provider_admin_only(view: View) -> View:
    """For the provider's own admins; for others there is no such page."""

    @wraps(view)
    def check(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not get_user(request).is_provider_admin:
            raise Http404
        return view(request, *args, **kwargs)

    return signed_in(check)
