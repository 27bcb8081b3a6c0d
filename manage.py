#!/usr/bin/env python
"""Django's command line; `./run` and `./test` call it."""

import os
import select
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line
from django.db import OperationalError

from portal.settings import choose

BROKEN_PIPE = 141  # as a shell has it of a command that SIGPIPE ended


def main() -> None:
    choose()
    try:
        execute_from_command_line(sys.argv)
        sys.stdout.flush()
    except BrokenPipeError:
        if not is_reader_gone():
            raise
        sys.exit(BROKEN_PIPE)
    except ImproperlyConfigured as error:
        sys.exit(f"lazaret: {error}")
    except OperationalError as error:
        sys.exit(f"lazaret: PostgreSQL cannot be used ({error}); is `./run` running with this LAZARET_HOME?")


def is_reader_gone() -> bool:
    """Whether nobody reads our output any more, as after `| head`; then Python shall not fail at it once more."""
    output = select.poll()
    output.register(sys.stdout, 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


if __name__ == "__main__":
    main()
