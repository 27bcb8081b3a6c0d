"""Every transaction is traced with its replies, and found by sender, recipient, client and Message-ID."""

import django.contrib.postgres.indexes
import django.db.models.functions.text
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('people', '0003_except_from_reverse_dns'),
        ('quarantine', '0003_find_released_mail_by_age'),
    ]

    operations = [
        migrations.AddField(
            model_name='message',
            name='ptr_milliseconds',
            field=models.PositiveIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name='message',
            name='replies',
            field=models.JSONField(db_default=[], default=list),
        ),
        migrations.AddField(
            model_name='recipient',
            name='cause',
            field=models.CharField(blank=True, db_default='', default='', max_length=24),
        ),
        migrations.AlterField(
            model_name='recipient',
            name='state',
            field=models.CharField(choices=[('quarantined', 'In quarantine'), ('releasing', 'Being released'), ('released', 'Released'), ('delivering', 'On its way'), ('delivered', 'Delivered'), ('deferred', 'Waiting to be tried again'), ('held', 'Held: the mail server refused it'), ('refused', 'Refused'), ('expired', 'Expired'), ('deleted', 'Deleted'), ('unfinished', 'Not taken yet: the sender was told, or has, to try again')], max_length=12),
        ),
        migrations.AddIndex(
            model_name='message',
            index=models.Index(django.db.models.functions.text.Lower('sender'), models.F('received_at').desc(), name='message_sender'),
        ),
        migrations.AddIndex(
            model_name='message',
            index=models.Index(fields=['client_ip', '-received_at'], name='message_client'),
        ),
        migrations.AddIndex(
            model_name='message',
            index=django.contrib.postgres.indexes.HashIndex(fields=['message_id'], name='message_message_id'),
        ),
        migrations.AddIndex(
            model_name='recipient',
            index=models.Index(django.db.models.functions.text.Lower('address'), models.F('received_at').desc(), name='recipient_address'),
        ),
    ]
