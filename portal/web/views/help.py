"""Help for people who were refused; they have no account here."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

from filtering.evidence.addresses import MAX_CHARACTERS, Address, read_address
from portal.web.limits import Refusal, get_client
from portal.web.ptr_check import check_address

STATUS = {
    Refusal.LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    Refusal.BUSY: HTTPStatus.SERVICE_UNAVAILABLE,
    Refusal.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}
REFUSED = "Your mail was refused because its server has no reverse DNS"
NOT_CHECKED = "This mail server’s reverse DNS was not checked"
HEADINGS = {  # by what is seen, where that is anything else than no name
    "ok": "This mail server’s reverse DNS is as it should be",
    "mismatch": "This mail server’s name does not lead back to it",
    "malformed": "This mail server’s reverse DNS is no host name",
    "skipped": "This is not the address that was refused",
    "unknown": "This mail server’s reverse DNS could not be looked up",
    "no_address": "This is not the address of a mail server",
    **{refusal.value: NOT_CHECKED for refusal in Refusal},
}


@require_http_methods(["GET", "HEAD", "POST"])
def reverse_dns(request: HttpRequest) -> HttpResponse:
    """What it means to be refused for want of reverse DNS; by POST, with a look at an address.

    A look-up needs a POST: programs that open the links of an error message cause none.
    """
    asked = request.POST if request.method == "POST" else request.GET
    address = read_address(asked.get("ip", ""))
    context: dict[str, Any] = {"typed": request.POST.get("ip", "")[:MAX_CHARACTERS], "status": HTTPStatus.OK}
    context["is_linked"] = request.method != "POST"  # by the error message: then the address is the refused one
    if address:
        context |= {"ip": str(address), "name": address.reverse_pointer}
    if request.method == "POST":
        context |= look(request, address)
    context["heading"] = HEADINGS.get(context.get("seen", ""), REFUSED)
    context["is_refused"] = context["heading"] == REFUSED
    response = render(request, "web/help_reverse_dns.html", context, status=context["status"])
    response["Cache-Control"] = "no-store"
    return response


def look(request: HttpRequest, address: Address | None) -> dict[str, Any]:
    """What is told about the address: `seen`, and the status of the answer."""
    if address is None:
        return {"seen": "no_address", "status": HTTPStatus.BAD_REQUEST}
    found = check_address(address, client=get_client(request))
    if isinstance(found, Refusal):
        return {"seen": found.value, "status": STATUS[found]}
    return {"seen": found.status.value, "ptr_name": found.name}
