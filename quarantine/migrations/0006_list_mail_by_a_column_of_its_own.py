"""Lists read a column that deliveries do not change: no index has to be written when mail is delivered.

The table of recipients is written anew with its indexes, under a lock: for that there must be room beside it, and mail for
the provider is told to come again where a gateway runs meanwhile.
"""

from django.db import migrations, models

# For the new version of a row, beside the old one.
LEAVE_ROOM = "ALTER TABLE quarantine_recipient SET (fillfactor = 70)"


class Migration(migrations.Migration):

    dependencies = [
        ('quarantine', '0005_find_untaken_mail_by_age'),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name='recipient',
            name='recipient_held_mailbox',
        ),
        migrations.RemoveIndex(
            model_name='recipient',
            name='recipient_held_domain',
        ),
        migrations.RemoveIndex(
            model_name='recipient',
            name='recipient_held_all',
        ),
        migrations.RemoveIndex(
            model_name='recipient',
            name='recipient_refused_domain',
        ),
        migrations.RemoveIndex(
            model_name='recipient',
            name='recipient_released_domain',
        ),
        migrations.RemoveIndex(
            model_name='recipient',
            name='recipient_untaken',
        ),
        migrations.AddField(
            model_name='recipient',
            name='listed',
            field=models.GeneratedField(db_persist=True, expression=models.Case(models.When(state__in=['quarantined', 'held', 'releasing', 'released'], then=models.F('state')), models.When(state__in=['refused', 'unfinished'], then=models.Value('untaken'))), output_field=models.CharField(max_length=12, null=True)),
        ),
        migrations.RunSQL(LEAVE_ROOM, migrations.RunSQL.noop),
        migrations.AddIndex(
            model_name='recipient',
            index=models.Index(condition=models.Q(('listed__in', ['quarantined', 'held', 'releasing', 'released'])), fields=['listed', 'mailbox', '-received_at', '-id'], name='recipient_listed_mailbox'),
        ),
        migrations.AddIndex(
            model_name='recipient',
            index=models.Index(condition=models.Q(('listed__in', ['quarantined', 'held', 'releasing', 'released'])), fields=['listed', 'domain_id', '-received_at', '-id'], name='recipient_listed_domain'),
        ),
        migrations.AddIndex(
            model_name='recipient',
            index=models.Index(condition=models.Q(('listed__isnull', False)), fields=['listed', '-received_at', '-id'], name='recipient_listed_all'),
        ),
    ]
