"""Time-boxed exceptions from the reverse DNS rule; the gateways hear of them at once."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('people', '0002_notify_directory'),
    ]

    operations = [
        migrations.CreateModel(
            name='PtrException',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('network', models.CharField(max_length=43)),
                ('domain_id', models.BigIntegerField(blank=True, null=True)),
                ('until', models.DateTimeField(db_index=True)),
                ('reason', models.CharField(max_length=300)),
                ('created_by', models.CharField(max_length=320)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('ended_by', models.CharField(blank=True, db_default='', default='', max_length=320)),
                ('ended_at', models.DateTimeField(blank=True, null=True)),
            ],
        ),
        migrations.RunSQL(
            "CREATE TRIGGER notify_directory AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON people_ptrexception"
            " FOR EACH STATEMENT EXECUTE FUNCTION public.lazaret_notify_directory()",
            "DROP TRIGGER notify_directory ON people_ptrexception",
        ),
    ]
