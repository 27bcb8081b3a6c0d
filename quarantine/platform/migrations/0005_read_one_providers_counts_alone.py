"""A provider's page of counts reads that provider's rows, however many others there are."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("platform", "0004_trace_what_reached_nobody")]

    operations = [
        migrations.AddIndex(
            model_name="hourlycount", index=models.Index(fields=["schema", "hour"], name="hourly_count_provider")
        )
    ]
