from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("quarantine", "0002_find_refused_mail_by_age")]

    operations = [
        migrations.AddIndex(
            model_name="recipient",
            index=models.Index(
                condition=models.Q(("state", "released")),
                fields=["domain_id", "received_at"],
                name="recipient_released_domain",
            ),
        ),
    ]
