"""The pages of the platform itself: any hostname that is no provider's."""

from django.urls import URLPattern, URLResolver

urlpatterns: list[URLPattern | URLResolver] = []
