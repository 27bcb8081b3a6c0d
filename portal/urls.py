"""The pages of a provider's portal."""

from django.conf import settings
from django.urls import URLPattern, URLResolver

from portal.web.urls import account_pages, allauth_names, app_pages, open_pages
from portal.web.views import errors
from portal.web.views.demo import demo_urls
from portal.web.views.links import link_urls

urlpatterns: list[URLPattern | URLResolver] = [*app_pages, *account_pages, *allauth_names, *open_pages, *link_urls]
if settings.DEMO:
    urlpatterns += demo_urls

handler400 = errors.bad_request
handler403 = errors.forbidden
handler404 = errors.not_found
handler500 = errors.server_error
