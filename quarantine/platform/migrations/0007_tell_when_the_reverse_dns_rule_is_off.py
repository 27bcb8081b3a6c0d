"""A gateway tells with its signs of life since when its reverse DNS rule is off. Old code leaves the column alone."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("platform", "0006_say_why_reverse_dns_is_unknown")]

    operations = [
        migrations.AddField(model_name="heartbeat", name="rule_off_since", field=models.DateTimeField(null=True))
    ]
