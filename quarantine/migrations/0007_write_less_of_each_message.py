"""Each message costs four index entries, two checks of foreign keys and (most of them) a look into a second table less.

Content is compressed already, and stays beside its row where it fits into a page.
"""

import django.db.models.deletion
from django.db import migrations, models

# The index stays; only the second one goes, which Django makes for LIKE.
RENAME = """
ALTER TABLE quarantine_message RENAME CONSTRAINT quarantine_message_trace_id_key TO message_trace_id;
DROP INDEX quarantine_message_trace_id_1a586508_like
"""
RENAME_BACK = """
ALTER TABLE quarantine_message RENAME CONSTRAINT message_trace_id TO quarantine_message_trace_id_key;
CREATE INDEX quarantine_message_trace_id_1a586508_like ON quarantine_message (trace_id varchar_pattern_ops)
"""
KEEP_TOGETHER = """
ALTER TABLE quarantine_content ALTER COLUMN data SET STORAGE EXTERNAL, SET (toast_tuple_target = 8160)
"""
SEPARATE = """
ALTER TABLE quarantine_content ALTER COLUMN data SET STORAGE EXTENDED, RESET (toast_tuple_target)
"""


class Migration(migrations.Migration):

    dependencies = [
        ('quarantine', '0006_list_mail_by_a_column_of_its_own'),
    ]

    operations = [
        migrations.AlterField(
            model_name='event',
            name='message',
            field=models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='events', to='quarantine.message'),
        ),
        migrations.AlterField(
            model_name='event',
            name='recipient',
            field=models.ForeignKey(db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='events', to='quarantine.recipient'),
        ),
        migrations.AlterField(
            model_name='message',
            name='received_at',
            field=models.DateTimeField(),
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(RENAME, RENAME_BACK)],
            state_operations=[
                migrations.AlterField(
                    model_name='message',
                    name='trace_id',
                    field=models.CharField(max_length=20),
                ),
                migrations.AddConstraint(
                    model_name='message',
                    constraint=models.UniqueConstraint(fields=('trace_id',), name='message_trace_id'),
                ),
            ],
        ),
        migrations.RunSQL(KEEP_TOGETHER, SEPARATE),
    ]
