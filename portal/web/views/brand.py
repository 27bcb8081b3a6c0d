"""The provider's logo and colours, for everybody who looks at its pages."""

from __future__ import annotations

from hashlib import sha256

from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from portal.tenants.models import ServiceProvider
from portal.web.branding import get_brand, make_theme
from portal.web.permissions import get_provider

LOGO_TYPES = {"image/png", "image/jpeg"}


@require_safe
def logo(request: HttpRequest) -> HttpResponse:
    found = ServiceProvider.objects.filter(pk=get_provider(request).pk).values_list("logo", "logo_type").first()
    if not found or not found[0] or found[1] not in LOGO_TYPES:
        raise Http404
    content = bytes(found[0])
    tag = f'"{sha256(content).hexdigest()[:32]}"'
    headers = {
        "ETag": tag,
        "Cache-Control": "public, max-age=300",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    if request.headers.get("If-None-Match") == tag:
        return HttpResponse(status=304, headers=headers)
    return HttpResponse(content, content_type=found[1], headers=headers)


@require_safe
def theme(request: HttpRequest) -> HttpResponse:
    """The brand's colours; the address that pages use changes with them."""
    css = make_theme(get_brand(request).colour)
    return HttpResponse(css, content_type="text/css; charset=utf-8", headers={"Cache-Control": "public, max-age=86400"})
