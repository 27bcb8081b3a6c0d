"""The pages of a provider's portal that need a person or a brand."""

from allauth.account import views as accounts
from django.urls import URLPattern, path

from portal.web.views import (
    activity,
    brand,
    domains,
    help,
    mailboxes,
    message,
    ptr_exceptions,
    quarantine,
    rules,
    settings,
    trace,
)

app_pages: list[URLPattern] = [
    path("", quarantine.quarantine, name="quarantine"),
    path("act/", quarantine.act, name="act"),
    path("m/<int:pk>/", message.message, name="message"),
    path("m/<int:pk>/html/", message.html, name="message_html"),
    path("m/<int:pk>/raw/", message.raw, name="message_raw"),
    path("m/<int:pk>/sender/", message.rule_sender, name="rule_sender"),
    path("senders/", rules.rules, name="rules"),
    path("senders/<int:pk>/remove/", rules.remove_rule, name="remove_rule"),
    path("mailboxes/", mailboxes.mailboxes, name="mailboxes"),
    path("mailboxes/<int:pk>/", mailboxes.mailbox, name="mailbox"),
    path("report/", mailboxes.send_report, name="send_report"),
    path("domains/", domains.domains, name="domains"),
    path("domains/<int:pk>/", domains.domain, name="domain"),
    path("domains/<int:pk>/check/", domains.check_mailbox, name="check_mailbox"),
    path("reverse-dns/", ptr_exceptions.ptr_exceptions, name="ptr_exceptions"),
    path("reverse-dns/<int:pk>/end/", ptr_exceptions.end_ptr_exception, name="end_ptr_exception"),
    path("trace/", trace.trace, name="trace"),
    path("trace/<int:pk>/", trace.history, name="history"),
    path("activity/", activity.activity, name="activity"),
    path("settings/", settings.settings, name="settings"),
    path("account/", mailboxes.account, name="account"),
    path("account/forget-browsers/", mailboxes.forget_browsers, name="forget_browsers"),
]
account_pages: list[URLPattern] = [
    path("sign-in/", accounts.login, name="sign_in"),
    path("sign-out/", accounts.logout, name="sign_out"),
    path("account/password/", accounts.password_change, name="change_password"),
    path("sign-in/closed/", accounts.account_inactive, name="account_inactive"),
]
# The names by which allauth itself asks for them.
allauth_names: list[URLPattern] = [
    path("sign-in/", accounts.login, name="account_login"),
    path("sign-out/", accounts.logout, name="account_logout"),
    path("account/password/", accounts.password_change, name="account_change_password"),
]
open_pages: list[URLPattern] = [
    path("brand/logo", brand.logo, name="brand_logo"),
    path("brand/theme.css", brand.theme, name="brand_theme"),
    path("help/reverse-dns", help.reverse_dns, name="help_reverse_dns"),
]
