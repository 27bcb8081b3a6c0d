from importlib import import_module

from django.apps import AppConfig


class TenantsConfig(AppConfig):
    name = "portal.tenants"
    label = "tenants"

    def ready(self) -> None:
        """Whatever pages and commands enqueue goes to our broker, not to the one that Celery takes by default."""
        import_module("portal.celery")
