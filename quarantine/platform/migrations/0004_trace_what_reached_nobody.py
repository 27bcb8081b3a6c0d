"""What reached no provider is traced, what was just taken is known again, and hours are counted."""

import django.db.models.functions.datetime
import django.db.models.functions.text
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('platform', '0003_wake_the_courier'),
    ]

    operations = [
        migrations.CreateModel(
            name='HourlyCount',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('hour', models.DateTimeField()),
                ('schema', models.CharField(blank=True, default='', max_length=63)),
                ('domain_id', models.BigIntegerField(default=0)),
                ('kind', models.CharField(max_length=12)),
                ('cause', models.CharField(blank=True, default='', max_length=24)),
                ('instance', models.CharField(max_length=64)),
                ('count', models.PositiveBigIntegerField()),
            ],
        ),
        migrations.CreateModel(
            name='Receipt',
            fields=[
                ('fingerprint', models.BinaryField(max_length=32, primary_key=True, serialize=False)),
                ('trace_id', models.CharField(max_length=20)),
                ('at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), db_index=True)),
            ],
        ),
        migrations.RenameModel('UnroutedRefusal', 'Unrouted'),
        migrations.AddField(
            model_name='unrouted',
            name='ptr_name',
            field=models.CharField(blank=True, db_default='', default='', max_length=255),
        ),
        migrations.AddField(
            model_name='unrouted',
            name='ptr_milliseconds',
            field=models.PositiveIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name='unrouted',
            name='tls',
            field=models.CharField(blank=True, db_default='', default='', max_length=60),
        ),
        migrations.AddField(
            model_name='unrouted',
            name='outcome',
            field=models.CharField(db_default='refused', default='refused', max_length=12),
        ),
        migrations.AddField(
            model_name='unrouted',
            name='cause',
            field=models.CharField(blank=True, db_default='', default='', max_length=24),
        ),
        migrations.AddField(
            model_name='unrouted',
            name='replies',
            field=models.JSONField(db_default=[], default=list),
        ),
        migrations.AddField(
            model_name='unrouted',
            name='times',
            field=models.PositiveIntegerField(db_default=1, default=1),
        ),
        migrations.AddConstraint(
            model_name='hourlycount',
            constraint=models.UniqueConstraint(fields=('hour', 'schema', 'domain_id', 'kind', 'cause', 'instance'), name='hourly_count_once'),
        ),
        migrations.AddIndex(
            model_name='unrouted',
            index=models.Index(django.db.models.functions.text.Lower('sender'), models.F('at').desc(), name='unrouted_sender'),
        ),
        migrations.AddIndex(
            model_name='unrouted',
            index=models.Index(django.db.models.functions.text.Lower('recipient'), models.F('at').desc(), name='unrouted_recipient'),
        ),
        migrations.AddIndex(
            model_name='unrouted',
            index=models.Index(fields=['client_ip', '-at'], name='unrouted_client'),
        ),
    ]
