from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("platform", "0001_initial")]

    operations = [
        migrations.RemoveIndex(model_name="deliveryjob", name="delivery_job_due"),
        migrations.AddIndex(
            model_name="deliveryjob",
            index=models.Index(fields=["lane", "domain_id", "due_at", "id"], name="delivery_job_due"),
        ),
        migrations.AddIndex(
            model_name="deliveryjob",
            index=models.Index(
                condition=models.Q(("claimed_by", ""), _negated=True),
                fields=["claimed_by"],
                name="delivery_job_claimed",
            ),
        ),
    ]
