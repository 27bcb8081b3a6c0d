"""Changes of providers' hostnames are told to the gateways: refusals name the provider's help page."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("tenants", "0003_give_domains_a_retention")]

    operations = [
        migrations.RunSQL(
            "CREATE TRIGGER notify_directory AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON public.tenants_hostname"
            " FOR EACH STATEMENT EXECUTE FUNCTION public.lazaret_notify_directory()",
            "DROP TRIGGER notify_directory ON public.tenants_hostname",
        )
    ]
