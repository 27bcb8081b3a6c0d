"""`manage.py` whose clock goes wrong by so many seconds as the file that SHIFT names says: a stand-in for a clock that
is set, which no test may do to the whole machine.
"""

import datetime
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
FILE = Path(os.environ["SHIFT"])
REAL = datetime.datetime
get_real_time = time.time


def get_shift() -> int:
    return int(FILE.read_text())


class Shifted(REAL):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "Shifted":
        return super().now(tz) + datetime.timedelta(seconds=get_shift())


def main() -> None:
    datetime.datetime = Shifted  # type: ignore[misc]
    time.time = lambda: get_real_time() + get_shift()
    time.time_ns = lambda: round(time.time() * 1e9)
    from django.core.management import execute_from_command_line  # noqa: PLC0415 - with the clock already wrong

    execute_from_command_line(["manage.py", *sys.argv[1:]])


if __name__ == "__main__":
    main()
