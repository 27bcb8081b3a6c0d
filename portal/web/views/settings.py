"""The provider's own settings, for its admins."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods

from portal.tenants.models import ServiceProvider
from portal.web.forms.settings import ProviderForm
from portal.web.pages import render_page
from portal.web.permissions import get_provider, provider_admin_only


@provider_admin_only
@require_http_methods(["GET", "HEAD", "POST"])
def settings(request: HttpRequest) -> HttpResponse:
    # A row of its own: a form that is refused must not change what the rest of the page shows.
    row = ServiceProvider.objects.get(pk=get_provider(request).pk)
    form = ProviderForm(request.POST or None, request.FILES or None, instance=row)
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, "Saved.")
        return redirect("settings")
    return render_page(
        request, "web/settings.html", {"form": form}, page="settings", status=400 if form.errors else 200
    )
