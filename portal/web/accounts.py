"""What django-allauth asks the site about accounts."""

from __future__ import annotations

from typing import Any, ClassVar

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest
from django.urls import reverse


class AccountAdapter(DefaultAccountAdapter):
    """Accounts are made by the provider's people; one text answers a wrong address and a wrong password."""

    error_messages: ClassVar = DefaultAccountAdapter.error_messages | {
        "email_password_mismatch": "That email address and password do not match an account here.",
        "too_many_login_attempts": "Too many failed attempts. Wait five minutes, then try again.",
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def _get_login_attempts_cache_key(self, request: HttpRequest, **credentials: Any) -> str:
        """Failures are counted by client and account: allauth's own key has no client, so that anybody could lock out
        anybody, and has the Host header, so that another spelling of it would count anew."""
        account = str(credentials.get("email", "")).strip().lower()
        return f"{self.get_client_ip(request)}:{account}"

    def get_password_change_redirect_url(self, request: HttpRequest) -> str:
        return reverse("account")

    def add_message(self, *args: Any, **kwargs: Any) -> None:
        """Signing in and out speaks for itself."""
