"""No index has the messages without a Message-ID any more: in the old one they were one chain, and each went along it.

While the new one is made, nothing is written to the table, but it is read.
"""

import django.db.models.functions.text
from django.db import migrations, models

DROP = "DROP INDEX message_message_id"
# Not as it was: with the empty ones it would take hours.
RESTORE = "CREATE INDEX message_message_id ON quarantine_message USING hash (message_id) WHERE message_id <> ''"


class Migration(migrations.Migration):

    dependencies = [
        ('quarantine', '0007_write_less_of_each_message'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='message',
            index=models.Index(django.db.models.functions.text.Left('message_id', 250), models.OrderBy(models.F('received_at'), descending=True), condition=models.Q(('message_id', ''), _negated=True), name='message_message_id_begins'),
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(DROP, RESTORE)],
            state_operations=[migrations.RemoveIndex(model_name='message', name='message_message_id')],
        ),
    ]
