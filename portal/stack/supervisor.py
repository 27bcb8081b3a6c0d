"""Starting everything in order, keeping it running, and ending it in the reverse order."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from functools import partial

from portal.stack.child import Child, run_once
from portal.stack.configuration import Configuration
from portal.stack.console import Console
from portal.stack.demo import demo_environment
from portal.stack.health import find_unready
from portal.stack.home import Home
from portal.stack.logs import LogWatch, read_last_line
from portal.stack.parts import Part, list_parts, make_launch
from portal.stack.ports import listen, reserve
from portal.stack.postgres import EmbeddedPostgres, fit_to_machine
from portal.stack.process import StackError
from portal.stack.servers import check_servers
from portal.stack.summary import show_summary
from portal.stack.valkey import EmbeddedValkey

SERVER_START_SECONDS = 300  # a database that recovers from a crash takes its time
READY_SECONDS = 180
STOP_ORDER = ("gateway", "web", "beat", "worker")
STOPPED_LAST = ("demo", "valkey", "postgres")


class Supervisor:
    """One run of the stack, from the first server to the last."""

    def __init__(self, home: Home, configuration: Configuration, console: Console) -> None:
        self.home = home
        self.configuration = configuration
        self.console = console
        self.environment = dict(configuration.environment)
        self.children: list[Child] = []
        self.hurry = asyncio.Event()
        self.work: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Start everything, then supervise until a signal comes. Raises StackError when the start fails."""
        self._listen_to_signals()
        self.work = asyncio.create_task(self._serve())
        try:
            with suppress(asyncio.CancelledError):
                await self.work
        finally:
            await self._stop()

    def event(self, name: str, **values: object) -> None:
        self.console.event(name, **values)

    def record(self, name: str, pid: int | None) -> None:
        self.home.record(name, pid)

    async def _serve(self) -> None:
        configuration = self.configuration
        with reserve("LAZARET_SMTP", configuration.smtp), listen("LAZARET_WEB", configuration.web) as web_socket:
            await self._start_servers()
            self._tell_environment()
            await self._run_command("prepare", "Tables", "are up to date")
            await self._start_parts(web_socket.fileno())
            if await self._is_ready() and configuration.demo:
                await self._seed()
            self.home.state["portal"] = f"http://{configuration.web}"
            self.home.write_state()
            show_summary(self.console, configuration, self.environment)
            await LogWatch(self.home.logs, self.console).follow()

    async def _start_servers(self) -> None:
        if not self.configuration.embedded:
            check_servers(self.environment)
            return
        ports = self.home.state["ports"]
        postgres = EmbeddedPostgres(
            self.home.path / "postgres", settings=fit_to_machine(), log=self.home.logs / "postgres.log"
        )
        await self._start_server("postgres", "PostgreSQL", postgres, ports)
        postgres.make_database()
        valkey = EmbeddedValkey(self.home.path / "valkey", log=self.home.logs / "valkey.log")
        await self._start_server("valkey", "Valkey", valkey, ports)
        self.environment |= {"DATABASE_URL": postgres.url, "BROKER_URL": valkey.url, "LAZARET_EMBEDDED": "1"}

    async def _start_server(
        self, name: str, title: str, server: EmbeddedPostgres | EmbeddedValkey, ports: dict[str, int]
    ) -> None:
        step = self.console.step(title)
        server.prepare(ports.get(name, 0))
        ports[name] = server.port
        is_ready = partial(asyncio.to_thread, server.is_ready)
        child = Child(name, server.make_launch, self, stop_seconds=30, is_ready=is_ready)
        self.children.append(child)
        await child.start()
        await child.wait_ready(SERVER_START_SECONDS)
        elsewhere = "" if server.home.parent == self.home.path else f", its data is in {server.home}"
        step.done(f"listens on 127.0.0.1:{server.port}{elsewhere}")

    def _tell_environment(self) -> None:
        """For the children, and for `manage.py` in another terminal."""
        configuration = self.configuration
        if configuration.demo:
            self.environment = demo_environment(configuration.smtp.port, self.environment)
        self.environment["LAZARET_SUPERVISED"] = "1"
        if configuration.embedded:
            ours = {name: value for name, value in self.environment.items() if name.startswith("LAZARET_")}
            told = {name: self.environment[name] for name in ("DATABASE_URL", "BROKER_URL")}
            self.home.write_environment(ours | told)

    async def _run_command(self, command: str, title: str, outcome: str) -> None:
        """Run a command of `manage.py`, its last line shown meanwhile. StackError when it fails."""
        step = self.console.step(title)
        launch = make_launch(Part(command, ("manage.py", command)), self.environment, self.home.logs)
        begin = launch.log.stat().st_size if launch.log.exists() else 0
        running = asyncio.create_task(run_once(launch))
        try:
            while not (await asyncio.wait([running], timeout=0.5))[0]:
                step.update(read_last_line(launch.log, begin))
        finally:
            running.cancel()
            await asyncio.wait([running])
        if running.result():
            last = read_last_line(launch.log, begin)
            raise StackError(f"manage.py {command} failed: {last} (all of it is in {launch.log})")
        step.done(outcome)

    async def _seed(self) -> None:
        """A demo without its mail is no reason to end what runs."""
        try:
            await self._run_command("seed_demo", "Demo", "has its people and mail")
        except StackError as error:
            self.console.say(f"\nlazaret: {error}")

    async def _start_parts(self, web_socket: int) -> None:
        configuration = self.configuration
        for part in list_parts(web_socket=web_socket, gateways=configuration.gateways, demo=configuration.demo):
            make = partial(make_launch, part, self.environment, self.home.logs)
            child = Child(part.name, make, self, stop_seconds=part.stop_seconds)
            self.children.append(child)
            await child.start()

    async def _is_ready(self) -> bool:
        step = self.console.step("Processes")
        deadline = time.monotonic() + READY_SECONDS
        while unready := await find_unready(self.configuration.web):
            if time.monotonic() > deadline:
                step.done(f"not ready yet: {', '.join(unready)}; see {self.home.logs}")
                return False
            await asyncio.sleep(0.3)
        step.done("are ready")
        return True

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                loop.add_signal_handler(number, self._end)

    def _end(self) -> None:
        """The first signal ends everything in order; another one hurries."""
        if self.work and not self.work.cancelling() and not self.work.done():
            self.console.say("\nStopping; once more stops at once.")
            self.work.cancel()
        else:
            self.hurry.set()

    async def _stop(self) -> None:
        for child in self.children:
            child.stopping = True  # who ends by itself from now on is not started again
        # It may have to wait for a customer's server: begun first, so that all of it ends before systemd is impatient.
        courier = asyncio.create_task(self._stop_parts("courier"))
        await self._stop_parts(*STOP_ORDER)
        if not courier.done():
            self.console.say("Mail that is being delivered has a minute to arrive.")
        await courier
        await self._stop_parts(*STOPPED_LAST)
        if self.children:
            self.console.say("Lazaret has stopped.")

    async def _stop_parts(self, *names: str) -> None:
        """One after the other."""
        for name in names:
            children = [child for child in self.children if child.name.partition("-")[0] == name]
            await asyncio.gather(*(child.stop(self.hurry) for child in children))
