"""./run as a person meets it: it starts, says what is wrong, mends what dies, and leaves nothing behind."""

import http.client
import os
import signal
import socket
import time

import psutil
import psycopg
import pytest

from portal.stack.configuration import read_configuration
from tests.running import LOOPBACK, Stack, is_listening, set_read_only

PARTS = {"postgres", "valkey", "gateway", "courier", "web", "worker", "beat"}


def list_processes(stack):
    """Everything that was started for this home, however deep."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("LAZARET_HOME") == str(stack.home):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
        except psutil.Error:
            continue
    return found


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def other():
    """A Lazaret of the test's own, beside the shared one."""
    stack = Stack(LAZARET_GATEWAYS="1")
    yield stack
    stack.remove()


@pytest.mark.parametrize("own", [False, True], ids=["with --empty", "with servers of one's own"])
def test_a_demo_left_in_the_environment_is_none(monkeypatch, own):
    monkeypatch.setenv("LAZARET_DEMO", "1")
    for name in ("DATABASE_URL", "BROKER_URL", "LAZARET_EMBEDDED"):
        monkeypatch.delenv(name, raising=False)
    if own:
        monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@127.0.0.1:1/x")
        monkeypatch.setenv("BROKER_URL", "redis://127.0.0.1:1/0")
    assert "LAZARET_DEMO" not in read_configuration(empty=not own).environment


def test_every_part_is_ready_and_the_table_says_where(stack):
    status, health = stack.health()
    assert (status, health["ready"]) == (200, True)
    assert {name for name, part in health["parts"].items() if part["state"] == "ready"} == PARTS - {"web"}
    assert f"smtp://127.0.0.1:{stack.smtp[1]}" in stack.output
    assert f"http://127.0.0.1:{stack.web_port}/\n" not in stack.output  # no page of the platform without the demo
    assert f"http://127.0.0.1:{stack.web_port}/healthz" in stack.output


def test_passwords_are_neither_shown_nor_readable(stack):
    settings = stack.home / "lazaret.env"
    database = next(line for line in settings.read_text().splitlines() if line.startswith("DATABASE_URL"))
    password = database.partition("lazaret:")[2].partition("@")[0]
    assert len(password) >= 24
    assert password not in stack.output
    assert all(password not in log.read_text() for log in (stack.home / "log").glob("*.log"))
    assert settings.stat().st_mode & 0o077 == 0


def test_manage_in_another_terminal_finds_the_servers(stack):
    assert stack.manage("prepare") == "prepared schemas_migrated=0\n"


def test_tokens_and_query_strings_reach_no_log(stack):
    token = "c2VjcmV0LXRva2VuLW9mLWEtbGluaw"
    for path in (f"/d/{token}/", f"/d/{token}/?code={token}", f"/quarantine/?q={token}", f"/any/{token}/"):
        client = http.client.HTTPConnection("127.0.0.1", stack.web_port, timeout=10)
        client.request(
            "POST", path, body=f"x={token}", headers={"Host": "acme.localhost", "Referer": f"http://x/{token}"}
        )
        client.getresponse().read()
        client.close()
    logged = "".join(log.read_text() for log in (stack.home / "log").glob("*.log"))
    assert "request method=POST host=acme.localhost path=/d/-/ status=" in logged
    assert token not in logged


def test_started_twice_it_says_that_it_runs_already(stack):
    second = Stack(home=stack.home)
    status, output = second.run_to_end()
    second.remove()
    assert status == 1
    assert f"Lazaret is running already in {stack.home} (process {stack.process.pid}" in output
    assert stack.health()[0] == 200


@pytest.mark.parametrize("part", ["gateway", "worker", "beat", "courier", "web"])
def test_a_killed_part_is_started_again(stack, part):
    pid = stack.kill(part)
    stack.wait_until(lambda: f"pid={pid} status=SIGKILL" in stack.output)
    stack.wait_until(lambda: pid not in stack.pids(part) and stack.health()[0] == 200)


@pytest.mark.parametrize("part", ["valkey", "postgres"])
def test_every_part_finds_a_killed_server_again(stack, part):
    pid = stack.kill(part)
    killed_at = time.monotonic()
    stack.wait_until(lambda: f"pid={pid} status=SIGKILL" in stack.output and pid not in stack.pids(part))

    def all_have_beaten_since():
        status, health = stack.health()
        ages = [part.get("seen_seconds_ago", 0) for part in health.get("parts", {}).values()]
        return status == 200 and max(ages) < time.monotonic() - killed_at

    stack.wait_until(all_have_beaten_since)


def wait_for_postgres(stack, state):
    """The answer of /healthz that first says so."""
    answers = []
    stack.wait_until(lambda: answers.append(stack.health()) or answers[-1][1]["parts"]["postgres"] == {"state": state})
    return answers[-1]


def test_healthz_says_503_while_postgresql_does_not_answer(stack):
    pid = stack.pids("postgres")[0]
    psutil.Process(pid).suspend()  # who is connected goes on, nobody else gets in
    try:
        status, health = wait_for_postgres(stack, "down")
    finally:
        psutil.Process(pid).resume()
    assert (status, health["ready"]) == (503, False)
    assert health["parts"]["valkey"] == {"state": "ready"}
    stack.wait_until(lambda: stack.health()[0] == 200)


def test_healthz_says_503_while_nothing_can_be_written(stack):
    settings = dict(line.split("=", 1) for line in (stack.home / "lazaret.env").read_text().splitlines())
    with psycopg.connect(settings["DATABASE_URL"].strip('"'), autocommit=True) as database:
        try:
            set_read_only(database, "on")
            status, health = wait_for_postgres(stack, "read_only")
        finally:
            set_read_only(database, "off")
    assert (status, health["ready"]) == (503, False)
    stack.wait_until(lambda: stack.health()[0] == 200)


def test_a_second_home_beside_it_survives_a_kill_and_leaves_nothing(stack, other):
    other.start("--empty")
    other.wait_ready()
    stack.wait_until(lambda: stack.health()[0] == 200)

    other.process.kill()  # ./run itself: the kernel tells its children
    other.wait_end()
    wait_for(lambda: list_processes(other) == [])

    other.start("--empty")
    other.wait_until(lambda: other.output.count("Ctrl-C stops") == 2)
    other.wait_ready()
    assert other.stop(signal.SIGINT) == 0
    assert list_processes(other) == []
    assert not is_listening(other.smtp[1])
    assert "child_insisted" not in other.output
    assert other.output.endswith("Lazaret has stopped.\n")


def test_servers_of_ones_own_are_used(other):
    server = os.environ["DATABASE_URL"].rpartition("/")[0]  # the suite's, standing in for somebody's
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE own")
    other.environment |= {
        "DATABASE_URL": f"{server}/own",
        "BROKER_URL": os.environ["BROKER_URL"].rpartition("/")[0] + "/5",
        "LAZARET_SECRET_KEY": "k" * 48,
    }
    other.start()
    other.wait_ready()
    assert len(other.pids()) == len(PARTS) - 2
    assert not (other.home / "postgres").exists()
    assert not (other.home / "lazaret.env").exists()
    assert "Sign in with" not in other.output
    assert other.stop() == 0


def test_stopped_while_it_starts_it_leaves_nothing(other):
    other.start("--empty")
    other.wait_until(lambda: "Valkey" in other.output)
    assert other.stop() == 0
    assert list_processes(other) == []


@pytest.mark.parametrize("variable", ["LAZARET_SMTP", "LAZARET_WEB"])
def test_a_port_in_use_is_one_sentence(other, variable):
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        other.environment[variable] = f"{LOOPBACK}:{port}"
        status, output = other.run_to_end("--empty")
    assert status == 1
    assert output.splitlines()[-1] == (
        f"lazaret: {variable} is 127.0.0.1:{port}, and port {port} is in use by another program; set it to another one."
    )
    assert list_processes(other) == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"LAZARET_SMTP": "here"}, "LAZARET_SMTP is 'here'; it must be host:port, such as 127.0.0.1:2525."),
        ({"LAZARET_WEB": "203.0.113.1:8000"}, "LAZARET_WEB is 203.0.113.1:8000, and 203.0.113.1 is no address of"),
        ({"LAZARET_DNS": "dns.example"}, "LAZARET_DNS has 'dns.example'; a resolver is named by its IP address."),
        ({"LAZARET_GATEWAYS": "many"}, "LAZARET_GATEWAYS is 'many'; it must be a whole number from 1 to 256."),
        ({"LAZARET_SECRET_KEY": "short"}, "LAZARET_SECRET_KEY must have at least 32 characters."),
        ({"LAZARET_TLS_CERT": "/etc/hostname"}, "LAZARET_TLS_CERT and LAZARET_TLS_KEY must be set together."),
        (
            {"LAZARET_TLS_CERT": "/etc/hostname", "LAZARET_TLS_KEY": "/etc/hostname"},
            "LAZARET_TLS_CERT and LAZARET_TLS_KEY are no pair of use: ",
        ),
        ({"BROKER_URL": "redis://127.0.0.1:1/0"}, "BROKER_URL is set and DATABASE_URL is not; set both, or neither"),
        ({"DATABASE_URL": "mysql://127.0.0.1/x"}, "DATABASE_URL must begin with one of: postgres://, postgresql://."),
        (
            {
                "DATABASE_URL": "postgresql://lazaret:hidden@127.0.0.1:1/lazaret",
                "BROKER_URL": "redis://127.0.0.1:1/0",
                "LAZARET_SECRET_KEY": "k" * 32,
            },
            "The server of DATABASE_URL does not let us in: ",
        ),
        ({"LAZARET_HOME": "/proc/lazaret"}, "LAZARET_HOME is /proc/lazaret, which cannot be written: "),
    ],
)
def test_a_wrong_setting_stops_the_start_with_a_sentence(other, settings, sentence):
    other.environment |= settings
    status, output = other.run_to_end("--empty")
    assert status == 1
    told = [line for line in output.splitlines() if line.startswith("lazaret: ")]
    assert len(told) == 1
    assert told[0].startswith(f"lazaret: {sentence}")
    assert "Traceback" not in output
    assert "hidden" not in output


def test_help_and_mistakes_start_nothing(other):
    status, output = other.run_to_end("--help")
    assert status == 0
    assert "--empty" in output
    assert other.run_to_end("--unknown")[0] == 2
    assert not other.home.exists()
