"""Sign-in and password forms: allauth's, with labels a person reads instead of placeholders."""

from __future__ import annotations

from typing import Any

from allauth.account.forms import ChangePasswordForm, LoginForm


def _label(form: Any, labels: dict[str, str]) -> None:
    for name, label in labels.items():
        form.fields[name].label = label
        form.fields[name].widget.attrs.pop("placeholder", None)


class SignInForm(LoginForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _label(self, {"login": "Email address", "password": "Password", "remember": "Stay signed in on this device"})
        self.fields["login"].widget.attrs["autocomplete"] = "username"
        self.fields["login"].widget.attrs["autofocus"] = True
        self.fields["password"].help_text = None


class PasswordForm(ChangePasswordForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _label(
            self, {"oldpassword": "Your password now", "password1": "New password", "password2": "New password again"}
        )
