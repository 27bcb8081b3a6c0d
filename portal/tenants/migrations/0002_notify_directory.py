"""Changes of providers, mail domains and policy releases are told to the gateways at once."""

from django.db import migrations

FUNCTION = """
CREATE OR REPLACE FUNCTION public.lazaret_notify_directory() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('lazaret_directory', TG_TABLE_SCHEMA);
    RETURN NULL;
END
$$
"""


def make_trigger(table: str) -> migrations.RunSQL:
    return migrations.RunSQL(
        f"CREATE TRIGGER notify_directory AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON public.{table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION public.lazaret_notify_directory()",
        f"DROP TRIGGER notify_directory ON public.{table}",
    )


class Migration(migrations.Migration):
    dependencies = [("tenants", "0001_initial"), ("policy", "0001_initial")]

    operations = [
        migrations.RunSQL(FUNCTION, "DROP FUNCTION public.lazaret_notify_directory()"),
        make_trigger("tenants_serviceprovider"),
        make_trigger("tenants_maildomain"),
        make_trigger("policy_policyrelease"),
    ]
