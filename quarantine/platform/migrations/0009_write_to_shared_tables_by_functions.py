"""What the statement for a provider's mail does in tables of all providers, as functions.

A plan that names a table is made anew after each vacuum and analysis of it: of the queue and of the receipts that is once
a minute, and there is a plan for each provider. A function has its own.
"""

from django.db import migrations

# The conflicting row is written anew so that RETURNING sees it also where it was committed only just now. What is to be
# known for longer (REMEMBER) is so until it comes again: its sender has a 250 then, and the usual ten minutes.
TAKE_RECEIPT = """
CREATE OR REPLACE FUNCTION public.lazaret_take_receipt(theirs bytea, own text, seconds double precision)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    known_as text;
BEGIN
    INSERT INTO public.platform_receipt AS r (fingerprint, trace_id, at) VALUES (theirs, own, now())
    ON CONFLICT (fingerprint) DO UPDATE SET
        trace_id = CASE WHEN r.at > now() - make_interval(secs => seconds) THEN r.trace_id ELSE excluded.trace_id END,
        at = CASE WHEN r.at > now() - make_interval(secs => seconds) THEN least(r.at, now()) ELSE excluded.at END
    RETURNING r.trace_id INTO known_as;
    RETURN known_as;
END
$$
"""
QUEUE_MAIL = """
CREATE OR REPLACE FUNCTION public.lazaret_queue_mail(provider text, recipient bigint, domain bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.platform_deliveryjob (schema, recipient_id, domain_id, lane)
    VALUES (provider, recipient, domain, 'mail');
END
$$
"""


class Migration(migrations.Migration):
    dependencies = [("platform", "0008_tell_when_the_disk_is_full")]

    operations = [
        migrations.RunSQL(TAKE_RECEIPT, "DROP FUNCTION public.lazaret_take_receipt(bytea, text, double precision)"),
        migrations.RunSQL(QUEUE_MAIL, "DROP FUNCTION public.lazaret_queue_mail(text, bigint, bigint)"),
    ]
