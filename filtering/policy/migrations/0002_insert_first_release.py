"""Policy release 1, complete and for ever: later releases are later rows."""

from django.db import migrations

CONTENT = {
    "spam_score": 5.0,
    "sure_spam_score": 15.0,
    "ptr": {
        "action": "refuse",
        "code": 553,
        "enhanced": "5.3.0",
        "text": (
            "Message rejected. The sending server has no reverse DNS entry; see {help_url} for what to do. "
            "Reason: (1) Could not resolve PTR record for {ip}"
        ),
        "points": 2.0,
        "mismatch_points": 0.5,
        "malformed_points": 0.5,
        "help_url": "{portal}/help/reverse-dns",
    },
    "classifier": {
        "spam_probability": 0.8,
        "spam_points": 5.0,
        "points_per_log_odds": 2.8,
        "min_points": -3.0,
        "max_points": 20.0,
        "new_max_points": 4.0,
        "new_scale": 0.4,
        "full_lessons": 800,
    },
    "points": {},
    "disabled": [],
}
NOTE = "The first policy: clients without reverse DNS are refused, spam is held from 5 points on."


def insert(apps, schema_editor):
    release = apps.get_model("policy", "PolicyRelease")
    if not release.objects.exists():
        release.objects.create(number=1, content=CONTENT, note=NOTE, is_live=True)


class Migration(migrations.Migration):

    dependencies = [("policy", "0001_initial")]

    operations = [migrations.RunPython(insert, migrations.RunPython.noop)]
