"""Django's and allauth's own apps with 64-bit primary keys and migrations made for them."""

from allauth.account.apps import AccountConfig as AllauthAccountConfig
from django.contrib.auth.apps import AuthConfig as DjangoAuthConfig
from django.contrib.contenttypes.apps import ContentTypesConfig as DjangoContentTypesConfig

BIG = "django.db.models.BigAutoField"


class AuthConfig(DjangoAuthConfig):
    default_auto_field = BIG


class ContentTypesConfig(DjangoContentTypesConfig):
    default_auto_field = BIG


class AccountConfig(AllauthAccountConfig):
    default_auto_field = BIG
