"""The pages of the platform itself: any hostname that is no provider's."""

from django.conf import settings
from django.urls import URLPattern, URLResolver, path

from portal.web.views import errors, front, help
from portal.web.views.demo import demo_urls

urlpatterns: list[URLPattern | URLResolver] = [
    path("", front.front, name="front"),
    path("help/reverse-dns", help.reverse_dns, name="help_reverse_dns"),
]
if settings.DEMO:
    urlpatterns += demo_urls

handler400 = errors.bad_request
handler403 = errors.forbidden
handler404 = errors.not_found
handler500 = errors.server_error
