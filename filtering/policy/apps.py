from django.apps import AppConfig


class PolicyConfig(AppConfig):
    name = "filtering.policy"
    label = "policy"
