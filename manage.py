#!/usr/bin/env python
"""Django's command line; `./run` and `./test` call it."""

import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line
from django.db import OperationalError

from portal.settings import choose


def main() -> None:
    choose()
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"lazaret: {error}")
    except OperationalError as error:
        sys.exit(f"lazaret: PostgreSQL cannot be used ({error}); is `./run` running with this LAZARET_HOME?")


if __name__ == "__main__":
    main()
