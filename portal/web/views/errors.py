"""Error pages in the provider's brand. They ask the database nothing: it may be what failed."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.template import loader

from portal.web.branding import get_brand


def _render(request: HttpRequest, template: str, status: int) -> HttpResponse:
    content = loader.get_template(template).render({"brand": get_brand(request)})
    return HttpResponse(content, status=status, headers={"Cache-Control": "no-store"})


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _render(request, "400.html", 400)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _render(request, "403.html", 403)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _render(request, "404.html", 404)


def server_error(request: HttpRequest) -> HttpResponse:
    return _render(request, "500.html", 500)


def took_too_long(request: HttpRequest) -> HttpResponse:
    return _render(request, "503.html", 503)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return _render(request, "403_csrf.html", 403)
