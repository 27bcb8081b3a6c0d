"""`python -m portal.stack`, which `./run` becomes once the packages are installed."""

from __future__ import annotations

import asyncio
import sys

from portal.settings.environment import get_home
from portal.stack.bootstrap import parse_run
from portal.stack.configuration import read_configuration
from portal.stack.console import Console
from portal.stack.home import Home, RunningAlready
from portal.stack.process import StackError
from portal.stack.supervisor import Supervisor


def main() -> int:
    options = parse_run(sys.argv[1:])
    console = Console()
    home = Home(get_home())
    try:
        home.open()
    except (RunningAlready, StackError) as error:
        console.say(f"lazaret: {error}")
        return 1
    try:
        console.log = home.logs / "supervisor.log"
        asyncio.run(Supervisor(home, read_configuration(empty=options.empty), console).run())
    except StackError as error:
        console.say(f"lazaret: {error}")
        return 1
    finally:
        home.close()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
