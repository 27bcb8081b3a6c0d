from django.apps import AppConfig


class PlatformConfig(AppConfig):
    name = "quarantine.platform"
    label = "platform"
