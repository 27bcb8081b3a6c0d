"""The portal's pages with the demo's, as they are where LAZARET_DEMO is 1."""

from portal.urls import urlpatterns as portal_urls
from portal.web.views.demo import demo_urls

urlpatterns = [*portal_urls, *demo_urls]
