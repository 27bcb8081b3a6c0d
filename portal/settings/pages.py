"""Settings of the pages: sign-in, sessions, and what a browser may load. No environment is read here."""

from __future__ import annotations

from typing import Any

# Sign-in (django-allauth): an email address and a password, nobody signs up.
LOGIN_URL = "sign_in"
LOGIN_REDIRECT_URL = "quarantine"
ACCOUNT_ADAPTER = "portal.web.accounts.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*", "password2*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGOUT_REDIRECT_URL = "sign_in"
ACCOUNT_FORMS = {
    "login": "portal.web.forms.accounts.SignInForm",
    "change_password": "portal.web.forms.accounts.PasswordForm",
}
# Counted in the cache, by provider. A failure's key is client and account (AccountAdapter): nobody locks out another.
ACCOUNT_RATE_LIMITS = {"login": "60/m/ip", "login_failed": "20/m/ip,5/5m/key", "change_password": "5/m/user"}

# A cookie is for the one hostname that set it: no domain attribute.
SESSION_COOKIE_NAME = "session"
SESSION_COOKIE_AGE = 14 * 86400
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_HTTPONLY = True
CSRF_COOKIE_NAME = "csrf"
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_HTTPONLY = True
CSRF_FAILURE_VIEW = "portal.web.views.errors.csrf_failure"
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"

# Nothing from elsewhere, nothing inline, framed by nobody.
CONTENT_SECURITY_POLICY: dict[str, Any] = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "base-uri": ["'none'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
        "object-src": ["'none'"],
    }
}
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"

# Files are served from where they lie, without a step of collecting; their links carry a hash of the content.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False
WHITENOISE_MAX_AGE = 86400
