"""A new delivery job is told to the couriers when its transaction commits, once a transaction."""

from django.db import migrations

FUNCTION = """
CREATE OR REPLACE FUNCTION public.lazaret_notify_delivery() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('lazaret_delivery', '');
    RETURN NULL;
END
$$
"""
TRIGGER = (
    "CREATE TRIGGER notify_delivery AFTER INSERT ON public.platform_deliveryjob"
    " FOR EACH STATEMENT EXECUTE FUNCTION public.lazaret_notify_delivery()"
)


class Migration(migrations.Migration):
    dependencies = [("platform", "0002_find_due_jobs_by_destination")]

    operations = [
        migrations.RunSQL(FUNCTION, "DROP FUNCTION public.lazaret_notify_delivery()"),
        migrations.RunSQL(TRIGGER, "DROP TRIGGER notify_delivery ON public.platform_deliveryjob"),
    ]
