"""The command line as a whole: how it ends, and that its commands are in the docs."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from django.core.management import get_commands

from portal.settings.environment import PROJECT


@pytest.mark.parametrize("arguments", [["help", "--commands"], ["diffsettings", "--all"]], ids=["short", "long"])
def test_a_reader_who_has_seen_enough_is_no_error(tmp_path, arguments):
    """As after `| head`: with little output it is noticed at the end, with more while it is written."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = os.environ | {"LAZARET_HOME": str(tmp_path), "DJANGO_SETTINGS_MODULE": "portal.settings.embedded"}
    done = subprocess.run(
        [sys.executable, PROJECT / "manage.py", *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_docs_have_a_line_for_each_of_our_commands():
    ours = {
        name
        for name, app in get_commands().items()
        if str(app).startswith(("portal", "filtering", "quarantine", "reports"))
    }
    text = (PROJECT / "docs/operations.md").read_text()
    table = text.partition("\n## Commands\n")[2].partition("\n## ")[0]
    assert "trace" in ours
    assert sorted(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == sorted(ours)
