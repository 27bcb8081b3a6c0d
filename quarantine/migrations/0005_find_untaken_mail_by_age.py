from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("quarantine", "0004_trace_every_transaction")]

    operations = [
        migrations.AddIndex(
            model_name="recipient",
            index=models.Index(
                condition=models.Q(("state__in", ["refused", "unfinished"])),
                fields=["-received_at", "-id"],
                name="recipient_untaken",
            ),
        ),
    ]
