from django.apps import AppConfig


class PeopleConfig(AppConfig):
    name = "portal.tenants.people"
    label = "people"
