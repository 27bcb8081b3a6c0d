"""Changes of mailboxes, aliases and sender rules are told to the gateways at once."""

from django.db import migrations, models


def make_trigger(table: str, columns: str) -> migrations.RunSQL:
    return migrations.RunSQL(
        f"CREATE TRIGGER notify_directory AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF {columns} ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION public.lazaret_notify_directory()",
        f"DROP TRIGGER notify_directory ON {table}",
    )


class Migration(migrations.Migration):
    dependencies = [("people", "0001_initial"), ("tenants", "0002_notify_directory")]

    operations = [
        make_trigger("people_mailbox", "id, address, domain_id"),
        make_trigger("people_mailboxalias", "id, address, mailbox_id"),
        make_trigger("people_senderrule", "id, action, pattern, mailbox_id, domain_id"),
        migrations.AddIndex(
            model_name="senderrule",
            index=models.Index(
                fields=["domain_id"], condition=models.Q(mailbox__isnull=True), name="sender_rule_domain"
            ),
        ),
    ]
