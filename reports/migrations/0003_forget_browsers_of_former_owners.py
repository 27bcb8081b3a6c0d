"""A mailbox's remembered browsers are forgotten, however it is done, when its owner changes or their password does."""

from django.db import migrations

OF_MAILBOX = """
CREATE FUNCTION lazaret_forget_browsers_of_mailbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('DELETE FROM %I.reports_rememberedbrowser WHERE mailbox_id = $1', TG_TABLE_SCHEMA) USING NEW.id;
    RETURN NULL;
END
$$
"""
OF_OWNER = """
CREATE FUNCTION lazaret_forget_browsers_of_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'DELETE FROM %1$I.reports_rememberedbrowser'
        ' WHERE mailbox_id IN (SELECT id FROM %1$I.people_mailbox WHERE owner_id = $1)', TG_TABLE_SCHEMA
    ) USING NEW.id;
    RETURN NULL;
END
$$
"""
ON_MAILBOX = """
CREATE TRIGGER forget_browsers AFTER UPDATE OF owner_id ON people_mailbox
FOR EACH ROW WHEN (OLD.owner_id IS DISTINCT FROM NEW.owner_id)
EXECUTE FUNCTION lazaret_forget_browsers_of_mailbox()
"""
ON_PERSON = """
CREATE TRIGGER forget_browsers AFTER UPDATE OF password, is_active ON people_user
FOR EACH ROW WHEN (OLD.password <> NEW.password OR OLD.is_active AND NOT NEW.is_active)
EXECUTE FUNCTION lazaret_forget_browsers_of_owner()
"""


class Migration(migrations.Migration):
    dependencies = [
        ("people", "0002_notify_directory"),
        ("reports", "0002_let_late_rows_and_due_reports_be_found"),
    ]

    operations = [
        migrations.RunSQL(OF_MAILBOX, "DROP FUNCTION lazaret_forget_browsers_of_mailbox()"),
        migrations.RunSQL(OF_OWNER, "DROP FUNCTION lazaret_forget_browsers_of_owner()"),
        migrations.RunSQL(ON_MAILBOX, "DROP TRIGGER forget_browsers ON people_mailbox"),
        migrations.RunSQL(ON_PERSON, "DROP TRIGGER forget_browsers ON people_user"),
    ]
