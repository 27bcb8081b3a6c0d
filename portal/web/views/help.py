"""Help for people who were refused; they have no account here."""

from __future__ import annotations

from ipaddress import ip_address

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe


@require_safe
def reverse_dns(request: HttpRequest) -> HttpResponse:
    ip = read_ip(request.GET.get("ip", ""))
    return render(
        request, "web/help_reverse_dns.html", {"ip": ip, "name": ip_address(ip).reverse_pointer if ip else ""}
    )


def read_ip(text: str) -> str:
    """An address in its usual form; empty for anything else."""
    try:
        return str(ip_address(text.strip().split("%")[0]))
    except ValueError:
        return ""
