#!/usr/bin/env python
"""Django's command line; `./run` and `./test` call it."""

import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line

from portal.settings import choose


def main() -> None:
    choose()
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"lazaret: {error}")


if __name__ == "__main__":
    main()
