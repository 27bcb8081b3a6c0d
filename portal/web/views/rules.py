"""Allowed and blocked senders."""

from __future__ import annotations

from django.contrib import messages
from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.http import require_http_methods

from portal.tenants.people.models import SenderRule
from portal.web.forms.rules import RuleForm
from portal.web.pages import render_page
from portal.web.permissions import get_provider, get_user, list_rules, of_row, signed_in
from portal.web.selection import read_id

PAGE_SIZE = 100


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def rules(request: HttpRequest) -> HttpResponse:
    user = get_user(request)
    form = RuleForm(user, request.POST or None)
    if request.method == "POST" and form.is_valid() and (rule := save(form)):
        word = "allowed" if rule.action == SenderRule.Action.ALLOW else "blocked"
        messages.success(request, f"{rule.pattern} is {word} from now on.")
        return redirect("rules")
    text = request.GET.get("q", "").replace("\0", "").strip().lower()[:200]
    page = list(find_page(list_rules(user), text=text, after=request.GET.get("after", ""))[: PAGE_SIZE + 1])
    context = {"form": form, "rules": name_scopes(request, page[:PAGE_SIZE]), "text": text}
    context["older"] = page[PAGE_SIZE - 1].pk if len(page) > PAGE_SIZE else ""
    return render_page(request, "web/rules.html", context, page="rules", status=400 if form.errors else 200)


def save(form: RuleForm) -> SenderRule | None:
    """The rule; None where somebody else made the same at the same moment."""
    try:
        with transaction.atomic():
            return form.save()
    except IntegrityError:
        form.add_error("pattern", "There is such a rule already.")
        return None


def find_page(rules: QuerySet[SenderRule], *, text: str, after: str) -> QuerySet[SenderRule]:
    """The rules after the one whose id `after` is, in the order of their patterns."""
    found = rules.filter(pattern__contains=text).select_related("mailbox", "created_by").order_by("pattern", "pk")
    if not after:
        return found
    last = get_object_or_404(rules, pk=read_id(after))
    return found.filter(Q(pattern__gt=last.pattern) | Q(pattern=last.pattern, pk__gt=last.pk))


def name_scopes(request: HttpRequest, rules: list[SenderRule]) -> list[tuple[SenderRule, str]]:
    """Each rule with the words for whom it holds."""
    names = dict(get_provider(request).mail_domains.values_list("pk", "name"))
    return [(rule, name_scope(rule, names)) for rule in rules]


def name_scope(rule: SenderRule, names: dict[int, str]) -> str:
    if rule.mailbox:
        return rule.mailbox.address
    if rule.domain_id:
        return f"everybody at {names.get(rule.domain_id, 'a removed domain')}"
    return "all domains"


@of_row(list_rules, "POST")
def remove_rule(request: HttpRequest, rule: SenderRule) -> HttpResponse:
    rule.delete()
    messages.success(request, f"The rule for {rule.pattern} is removed.")
    return redirect("rules")
