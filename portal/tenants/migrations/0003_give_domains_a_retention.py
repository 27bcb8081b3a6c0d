import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tenants", "0002_notify_directory")]

    operations = [
        migrations.AddField(
            model_name="maildomain",
            name="retention_days",
            field=models.PositiveSmallIntegerField(
                db_default=30,
                default=30,
                help_text="Days that held mail is kept before it expires.",
                validators=[
                    django.core.validators.MinValueValidator(1),
                    django.core.validators.MaxValueValidator(3650),
                ],
            ),
        ),
    ]
