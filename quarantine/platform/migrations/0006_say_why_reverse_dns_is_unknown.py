"""What reached no provider says why nobody knew its client's name, as mail does. Old code leaves the column empty."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("platform", "0005_read_one_providers_counts_alone")]

    operations = [
        migrations.AddField(
            model_name="unrouted",
            name="ptr_detail",
            field=models.CharField(blank=True, db_default="", default="", max_length=120),
        )
    ]
