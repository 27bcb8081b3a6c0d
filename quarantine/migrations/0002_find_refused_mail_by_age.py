from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("quarantine", "0001_initial")]

    operations = [
        migrations.AddIndex(
            model_name="recipient",
            index=models.Index(
                condition=models.Q(("state", "held")),
                fields=["domain_id", "changed_at"],
                name="recipient_refused_domain",
            ),
        ),
    ]
