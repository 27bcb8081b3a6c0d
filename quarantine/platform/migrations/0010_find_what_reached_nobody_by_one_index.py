"""Of the two indexes of the trace id one goes: that which Django makes for LIKE, and nothing asks so.

It goes, and comes back, without a lock that mail would wait for; therefore not in a transaction, and each statement may
be repeated.
"""

from django.db import migrations, models

PLAIN = "platform_unroutedrefusal_trace_id_b26b4d5f"
DROP = [
    f"ALTER INDEX IF EXISTS public.{PLAIN} RENAME TO unrouted_trace",
    f"DROP INDEX CONCURRENTLY IF EXISTS public.{PLAIN}_like",
]
RESTORE = [
    f"DROP INDEX CONCURRENTLY IF EXISTS public.{PLAIN}_like",  # a broken one, where this was interrupted
    f"CREATE INDEX CONCURRENTLY {PLAIN}_like ON public.platform_unrouted (trace_id varchar_pattern_ops)",
    f"ALTER INDEX IF EXISTS public.unrouted_trace RENAME TO {PLAIN}",
]


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("platform", "0009_write_to_shared_tables_by_functions")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(DROP, RESTORE)],
            state_operations=[
                migrations.AlterField(
                    model_name="unrouted", name="trace_id", field=models.CharField(max_length=20)
                ),
                migrations.AddIndex(
                    model_name="unrouted", index=models.Index(fields=["trace_id"], name="unrouted_trace")
                ),
            ],
        )
    ]
