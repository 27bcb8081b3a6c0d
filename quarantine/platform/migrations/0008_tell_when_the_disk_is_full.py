"""A gateway tells with its signs of life that the disk is full. Old code leaves the column alone."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("platform", "0007_tell_when_the_reverse_dns_rule_is_off")]

    operations = [
        migrations.AddField(
            model_name="heartbeat", name="lacks_space", field=models.BooleanField(default=False, db_default=False)
        )
    ]
