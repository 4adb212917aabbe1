"""Alerts: what is news (pure), who is told (real processes and sockets), and what goes wrong."""

from __future__ import annotations

import http.server
import json
import logging
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.alerts.notification import Notifier, NotTold, post, run_command, send, shown
from collectors.alerts.policy import MOST_TOLD, Alarm, AlertPolicy
from collectors.alerts.rule import AlertRule, Channel, load_rules
from collectors.alerts.watch import AlertWatch
from collectors.errors import ConfigError, UsageError
from collectors.query.source import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RULE = AlertRule(name="slow", sql="x", key=["rank"], cooldown_s=60)


def told(policy: AlertPolicy, ranks: list[int], now_s: float, **more: Any) -> list[Any]:
    rows = [{"rank": rank, "ms": now_s} for rank in ranks]
    return [(one.state, one.row["rank"]) for one in policy.take(rows, now_s, **more)]


def test_an_alert_is_told_once_and_when_it_is_over() -> None:
    policy = AlertPolicy(RULE)
    assert told(policy, [1], 0) == [("firing", 1)]
    assert told(policy, [1], 10) == []
    assert told(policy, [1, 2], 20) == [("firing", 2)]
    assert told(policy, [2], 30) == [("resolved", 1)]
    assert told(policy, [2], 40) == []
    assert policy.active == 1


def test_one_that_flaps_waits_for_the_cooldown() -> None:
    policy = AlertPolicy(RULE)
    assert told(policy, [1], 0) == [("firing", 1)]
    assert told(policy, [], 10) == [("resolved", 1)]
    for now_s in (20.0, 40.0):
        assert told(policy, [1], now_s) == []
        assert told(policy, [], now_s + 5) == [], "it was not told this time, nor is its end"
    assert told(policy, [1], 50) == []
    assert told(policy, [1], 60) == [("firing", 1)]


def test_one_that_lasts_is_repeated_where_the_rule_says_so() -> None:
    policy = AlertPolicy(RULE.model_copy(update={"repeat_s": 100.0}))
    moments = [now_s for now_s in range(0, 400, 10) if told(policy, [1], now_s)]
    assert moments == [0, 100, 200, 300]


def test_rows_beyond_the_limit_end_nothing() -> None:
    policy = AlertPolicy(RULE)
    told(policy, [1, 2], 0)
    assert told(policy, [1], 10, whole=False) == []
    assert told(policy, [1, 2], 20, whole=False) == [], "2 is in its cooldown"


def test_many_at_once_are_told_in_parts() -> None:
    policy = AlertPolicy(RULE)
    parts = [told(policy, list(range(50)), now_s) for now_s in (0, 10, 20, 30)]
    assert [len(part) for part in parts] == [MOST_TOLD, MOST_TOLD, 10, 0]
    assert sorted(rank for part in parts for _, rank in part) == list(range(50))


def test_a_clock_set_back_silences_nothing_for_long() -> None:
    policy = AlertPolicy(RULE)
    assert told(policy, [1], 10_000)
    assert told(policy, [], 10_010)
    assert told(policy, [1], 50) == []
    assert told(policy, [1], 110) == [("firing", 1)]


def test_a_restart_remembers() -> None:
    before = AlertPolicy(RULE)
    told(before, [1, 2], 0)
    told(before, [1], 10)
    after = AlertPolicy.from_json(RULE, json.loads(json.dumps(before.to_json())))
    assert told(after, [1, 2], 20) == []
    assert told(after, [], 30) == [("resolved", 1)]


def test_a_row_of_any_width_fits_into_an_event() -> None:
    policy = AlertPolicy(AlertRule(name="wide", sql="x"))
    row = {f"column{i}": "é" * 900 for i in range(100)}
    [alarm] = policy.take([row], 0)
    assert len(json.dumps(alarm.to_json())) < 16_000
    assert policy.take([row], 1) == []
    assert len(policy.take([row | {"column99": "other"}], 2)) == 2, "another key, and one is over"


@given(st.lists(st.tuples(st.sets(st.integers(0, 4)), st.floats(0.1, 90)), max_size=40))
def test_the_policy_holds_its_promises(seen: list[tuple[set[int], float]]) -> None:
    policy, now_s = AlertPolicy(RULE), 0.0
    open_since: dict[int, float] = {}
    last: dict[int, float] = {}
    for ranks, pause_s in seen:
        now_s += pause_s
        for state, rank in told(policy, sorted(ranks), now_s):
            assert (state == "firing") == (rank in ranks) == (rank not in open_since)
            if state == "firing":
                assert now_s - last.get(rank, -1e9) >= RULE.cooldown_s
                open_since[rank] = last[rank] = now_s
            else:
                del open_since[rank]
        assert all(r in open_since or now_s - last[r] < RULE.cooldown_s for r in ranks)
        assert policy.active == len(ranks)


# -- rules ---------------------------------------------------------------------------------------


def test_a_file_of_rules(tmp_path: Path) -> None:
    path = tmp_path / "alerts.toml"
    path.write_text(
        """
        [[alert]]
        name = "slow rank"
        sql = "SELECT 1"
        key = ["rank"]
        message = "rank {rank} of {run}: {what}"
        notify = ["bell", {command = ["notify-send", "x"]}, {webhook = "https://u:p@h/x?t=1"}]
        """
    )
    [rule] = load_rules(path)
    assert [shown(one) for one in rule.notify] == ["bell", "notify-send", "https://h/..."]
    assert rule.text({"rank": 3, "run": "r", "what": "a\nb"}) == "rank 3 of r: a b"
    with pytest.raises(ValueError, match="no column 'run'"):
        rule.check_columns(["rank", "what"])


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('name = " a"', r"alert.name\[0\] = \" a\": a name has 1 to 64 letters, digits, spaces"),
        ('name = "a "', "does not end with a space"),
        (r'name = "a\nb"', "a name has"),
        ("every_s = 0.1", "every_s"),
        ('notify = ["mail"]', "notify"),
        ("notify = [{command = [], webhook = ''}]", "write"),
        ('notify = [{webhook = "file:///etc/passwd"}]', "http"),
        ('notify = [{webhook = "http://"}]', "http"),
        ('notify = [{webhook = "http://h:99999/"}]', "ort"),
        (r'notify = [{webhook = "http://h/\r\nX: y"}]', "http"),
        ("intervall = 3", "unknown key"),
    ],
)
def test_wrong_rules_are_named(tmp_path: Path, line: str, match: str) -> None:
    path = tmp_path / "alerts.toml"
    name = "" if line.startswith("name") else 'name = "a"\n'
    path.write_text(f'[[alert]]\n{name}sql = "SELECT 1"\n{line}\n')
    with pytest.raises(ConfigError, match=match):
        load_rules(path)


def test_two_rules_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "alerts.toml"
    path.write_text('[[alert]]\nname = "a"\nsql = "x"\n' * 2)
    with pytest.raises(ConfigError, match="two alerts are named 'a'"):
        load_rules(path)


# -- channels ------------------------------------------------------------------------------------

ALARM = Alarm(
    rule="slow",
    severity="warning",
    state="firing",
    key="[1]",
    message="rank 1 is slow",
    row={"rank": 1},
    since_s=1.0,
    at_s=2.0,
    count=1,
)


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_a_command_gets_the_alert_and_no_shell(tmp_path: Path) -> None:
    out = tmp_path / "got"
    code = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read() + sys.argv[2])"
    send(Channel(command=[*python(code), str(out), "; echo $HOME"]), ALARM.to_json())
    text = out.read_text()
    assert text.endswith("; echo $HOME")
    assert json.loads(text.removesuffix("; echo $HOME")) == ALARM.to_json()


def test_a_command_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    open(sys.argv[1] + '.new', 'w').write(str(os.getpid()))\n"
        "    os.rename(sys.argv[1] + '.new', sys.argv[1])\n"
        "time.sleep(60)"
    )
    began = time.monotonic()
    with pytest.raises(NotTold, match="killed"):
        run_command([*python(code), str(pid)], b"x" * 1_000_000, 1.0)
    assert time.monotonic() - began < 5
    child = int(pid.read_text())
    try:
        psutil.wait_procs([psutil.Process(child)], timeout=5)
        assert psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return


def test_a_command_that_fails_or_is_not_there() -> None:
    with pytest.raises(NotTold, match="exit code 3"):
        run_command(python("raise SystemExit(3)"), b"{}", 10)
    with pytest.raises(NotTold, match="cannot be started"):
        run_command(["/no/such/program"], b"{}", 10)


class Hook(http.server.BaseHTTPRequestHandler):
    """Answers with the next of ``statuses``, and keeps what it was sent."""

    statuses: list[int]
    bodies: list[bytes]

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.statuses.pop(0) if self.statuses else 200)
        self.send_header("Location", "file:///etc/passwd")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hook() -> Iterator[tuple[type[Hook], str]]:
    kind = type("OneHook", (Hook,), {"statuses": [], "bodies": []})
    server = http.server.HTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield kind, f"http://127.0.0.1:{server.server_port}/hook?key=s3cret"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_webhook_is_tried_again_while_that_may_help(hook: tuple[type[Hook], str]) -> None:
    kind, url = hook
    kind.statuses[:] = [503, 500]
    pauses: list[float] = []
    send(Channel(webhook=url), ALARM.to_json(), pause=pauses.append)
    assert [json.loads(body)["rule"] for body in kind.bodies] == ["slow"] * 3
    assert pauses == [1.0, 3.0]
    kind.statuses[:] = [500] * 9
    with pytest.raises(NotTold, match="answered 500"):
        send(Channel(webhook=url), ALARM.to_json(), pause=pauses.append)
    assert len(kind.bodies) == 6


@pytest.mark.parametrize("status", [302, 404])
def test_a_webhook_that_refuses_or_redirects_is_not_asked_again(
    hook: tuple[type[Hook], str], status: int
) -> None:
    kind, url = hook
    kind.statuses[:] = [status]
    with pytest.raises(NotTold, match=f"answered {status}"):
        send(Channel(webhook=url), ALARM.to_json())
    assert len(kind.bodies) == 1


def test_a_server_that_drips_cannot_hold_us() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    while not ended.wait(0.05):
                        connection.sendall(b"H")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        with pytest.raises(NotTold, match="no answer"):
            post(f"http://127.0.0.1:{listener.getsockname()[1]}/", b"{}", 0.5)
        assert time.monotonic() - began < 3
        ended.set()
        thread.join()


def test_the_notifier_writes_the_journal_and_hides_secrets(
    tmp_path: Path, hook: tuple[type[Hook], str], caplog: pytest.LogCaptureFixture
) -> None:
    kind, url = hook
    kind.statuses[:] = [403]
    notifier = Notifier(tmp_path / "alerts.jsonl", pause=lambda _: None)
    channels = [Channel(bell=True), Channel(webhook=url), Channel(command=python("pass"))]
    notifier.tell(RULE.model_copy(update={"notify": channels}), ALARM)
    deadline = time.monotonic() + 10
    while notifier.told + notifier.failed < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    notifier.close()
    assert (notifier.told, notifier.failed, notifier.dropped) == (1, 1, 0)
    [line] = (tmp_path / "alerts.jsonl").read_text().splitlines()
    assert (json.loads(line)["bell"], json.loads(line)["message"]) == (True, "rank 1 is slow")
    assert "http://127.0.0.1/..." in caplog.text
    assert "s3cret" not in caplog.text


def test_channels_that_do_not_tell_are_shown_until_they_do(
    tmp_path: Path, hook: tuple[type[Hook], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, url = hook
    kind.statuses[:] = [403]
    channels = [Channel(webhook=url), Channel(command=["no-such-bell", "x"])]
    rule = RULE.model_copy(update={"notify": channels})
    notifier = Notifier(tmp_path / "alerts.jsonl", pause=lambda _: None)
    missing = "alert slow: no-such-bell: cannot be started: there is no such program"
    assert notifier.troubles([rule]) == [missing], "before any alert"
    for tellings, expected in ((2, ["alert slow: http://127.0.0.1/...: answered 403"]), (4, [])):
        notifier.tell(rule, ALARM)
        deadline = time.monotonic() + 10
        while notifier.told + notifier.failed < tellings and time.monotonic() < deadline:
            time.sleep(0.01)
        assert notifier.troubles([rule]) == [*expected, missing]
    notifier.close()
    (tmp_path / "no-such-bell").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert notifier.troubles([rule]) == []


# -- the watch -----------------------------------------------------------------------------------


class World:
    """A store that answers what a test says, and people who are told."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.answers: dict[str, list[int] | str] = {}
        self.asked: list[str] = []
        self.recorded: list[Alarm] = []
        self.heard: list[str] = []
        self.watch = self.restarted()

    def restarted(self) -> AlertWatch:
        self.watch = AlertWatch(
            self.home / "alerts.toml",
            self.home / "alerts.state.json",
            ask=self.ask,
            record=self.recorded.extend,
            tell=lambda rule, alarm: self.heard.append(f"{rule.name} {alarm.state}"),
        )
        return self.watch

    def ask(self, sql: str, limit: int) -> Answer:
        self.asked.append(sql)
        answer = self.answers.get(sql, [])
        if isinstance(answer, str):
            raise UsageError(answer)
        return Answer(table=pa.table({"rank": pa.array(answer, pa.int64())}), total=len(answer))

    def rules(self, *names: str, every_s: int = 10) -> None:
        texts = [f'[[alert]]\nname = "{n}"\nsql = "{n}"\nevery_s = {every_s}\n' for n in names]
        (self.home / "alerts.toml").write_text("\n".join(texts))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_rules_are_asked_when_due_and_told_once(world: World) -> None:
    world.rules("a", "b")
    world.answers["a"] = [1]
    for second in range(0, 31):
        world.watch.tick(float(second))
    assert world.asked == ["a", "b"] * 4
    assert world.heard == ["a firing"]
    assert [(one.rule, one.row) for one in world.recorded] == [("a", {"rank": 1})]
    world.restarted().tick(31.0)
    assert world.heard == ["a firing"], "a restart does not tell it again"
    world.answers["a"] = []
    world.watch.tick(41.0)
    assert world.heard == ["a firing", "a resolved"]


def test_a_wrong_rule_is_told_once_and_stops_no_other(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.rules("bad", "good")
    world.answers |= {"bad": "there is no table x", "good": [2]}
    with caplog.at_level(logging.WARNING):
        for second in range(0, 100, 10):
            world.watch.tick(float(second))
    assert caplog.text.count("there is no table x") == 1
    assert world.heard == ["good firing"]
    rules = world.watch.status()["rules"]
    assert [(one["name"], one["active"], one["error"]) for one in rules] == [
        ("bad", 0, "there is no table x"),
        ("good", 1, ""),
    ]
    world.answers["bad"] = [1]
    world.watch.tick(200.0)
    assert world.heard[-1] == "bad firing"


def test_an_edited_file_counts_at_once_and_a_wrong_one_changes_nothing(world: World) -> None:
    world.watch.tick(0.0)
    assert world.watch.status() == {"error": "", "rules": []}
    world.rules("a")
    world.answers["a"] = [1]
    world.watch.tick(1.0)
    (world.home / "alerts.toml").write_text("[[alert]]\nname = 3\n")
    world.watch.tick(2.0)
    assert "name" in world.watch.status()["error"]
    assert [one["name"] for one in world.watch.status()["rules"]] == ["a"]
    world.rules("a", "c")
    world.answers["c"] = [1]
    world.watch.tick(3.0)
    assert world.heard == ["a firing", "c firing"], "a's memory stays with its edited rule"
    (world.home / "alerts.toml").unlink()
    world.watch.tick(4.0)
    assert world.watch.status()["rules"] == []


def test_a_clock_set_back_does_not_stop_the_asking(world: World) -> None:
    world.rules("a")
    world.watch.tick(10_000.0)
    world.watch.tick(5.0)
    assert world.asked == ["a", "a"]


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 3}', '{"a": {"k": {"x": 1}}}', "\xff"])
def test_a_corrupt_state_is_forgotten(world: World, text: str) -> None:
    (world.home / "alerts.state.json").write_bytes(text.encode("latin-1"))
    world.rules("a")
    world.answers["a"] = [1]
    world.restarted().tick(0.0)
    assert world.heard == ["a firing"]
