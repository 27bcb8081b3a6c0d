"""A domain says which of its addresses are taken."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('tenants', '0004_notify_hostnames'),
    ]

    operations = [
        migrations.AddField(
            model_name='maildomain',
            name='recipient_policy',
            field=models.CharField(choices=[('known', 'Only the mailboxes listed here'), ('callout', 'Those the mail server knows: it is asked'), ('anyone', 'Every address; a mailbox is made on its first mail')], db_default='known', default='known', max_length=10),
        ),
    ]
