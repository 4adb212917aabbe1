"""Bundles: a run travels whole, and nothing hostile gets in."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from collectors.bundle import importer as bundle_import_module
from collectors.bundle.importer import import_bundle
from collectors.bundle.writer import CONTENTS, write_bundle
from collectors.errors import DataError, StorageError, UsageError
from collectors.labels import change_labels, read_labels
from collectors.query.direct import Store
from collectors.redaction import redact_text
from collectors.retention.removal import remove_run
from collectors.run import RunDirectory, list_runs
from collectors.store.sole_collector import sole_collector

if TYPE_CHECKING:
    from collections.abc import Callable

    from collectors.recorder import Recorder

    OpenRank = Callable[[int | None], Recorder]
    Members = dict[str, bytes]

FIXTURE = Path(__file__).parents[1] / "formats" / "bundle-v1"
SHIPPED = FIXTURE / "run.opsuite.zip"


def rows(home: Path, sql: str) -> list[tuple[Any, ...]]:
    with Store.open(home) as store:
        return store.rows(sql)


@pytest.fixture
def bundle(home: Path, run: RunDirectory, open_rank: OpenRank, tmp_path: Path) -> Path:
    """A bundle of a run of two ranks, with labels, a log and a secret in it."""
    for rank in (0, 1):
        recorder = open_rank(rank)
        for step in range(5):
            recorder.record_span("step", step * 10**9, step * 10**9 + 10**8 * (rank + 1), step)
            recorder.sample("loss", 3.0 - step, step)
        recorder.event("note", attributes={"text": "grüße"})
        recorder.close()
    (run.logs / "rank0.log").write_text("step 1\nexport HF_TOKEN=hf_abcdefghijklmno\n")
    (run.logs / "link.log").symlink_to("/etc/passwd")
    change_labels(run.path, lambda labels: replace(labels.tagged(add=("base",)), pinned=True))
    path = tmp_path / "run.opsuite.zip"
    with sole_collector(home) as collector:
        collector.seal(force=True)
        told = write_bundle(home, run, path)
    assert (told.run_id, told.rows) == (run.run_id, 22)
    return path


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The home of another machine."""
    return tmp_path / "elsewhere"


def test_a_run_travels_whole(home: Path, run: RunDirectory, bundle: Path, elsewhere: Path) -> None:
    assert import_bundle(elsewhere, bundle).rows == 22
    for view in ("ranks", "processes", "steps", "spans", "samples", "events"):
        sql = f"SELECT * FROM {view} ORDER BY ALL"
        assert rows(elsewhere, sql) == rows(home, sql) != [], view
    there = RunDirectory.open(elsewhere, run.run_id)
    assert there.manifest == replace(run.manifest, status="lost"), "it was alive when it left"
    assert (read_labels(there.path).tags, read_labels(there.path).pinned) == (("base",), False)
    log = (there.logs / "rank0.log").read_text()
    assert "step 1" in log
    assert "hf_abc" not in log
    assert [path.name for path in there.logs.iterdir()] == ["rank0.log"], "no links"
    assert not list(elsewhere.glob(".import-*"))


def test_the_same_bundle_again_is_no_error_and_another_is_refused(
    home: Path, run: RunDirectory, bundle: Path, elsewhere: Path, tmp_path: Path
) -> None:
    import_bundle(elsewhere, bundle)
    assert import_bundle(elsewhere, bundle).already
    with pytest.raises(UsageError, match="already"):
        import_bundle(home, bundle)
    run.finish("failed", 1)
    other = tmp_path / "other.zip"
    write_bundle(home, run, other)
    with pytest.raises(UsageError, match="not from this bundle"):
        import_bundle(elsewhere, other)
    remove_run(elsewhere, run.run_id)
    assert not import_bundle(elsewhere, other).already
    assert rows(elsewhere, "SELECT status FROM runs") == [("failed",)]


def test_several_imports_at_once_make_one_run(
    run: RunDirectory, bundle: Path, elsewhere: Path
) -> None:
    told = []
    threads = [
        threading.Thread(target=lambda: told.append(import_bundle(elsewhere, bundle).already))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [False, True, True, True]
    assert rows(elsewhere, "SELECT count(*) FROM spans") == [(10,)]


def test_an_imported_run_can_be_exported_again_and_recorded_into(
    bundle: Path, elsewhere: Path, tmp_path: Path
) -> None:
    run_id = import_bundle(elsewhere, bundle).run_id
    third, path = tmp_path / "third", tmp_path / "again.zip"
    write_bundle(elsewhere, RunDirectory.open(elsewhere, run_id), path)
    import_bundle(third, path)
    assert rows(third, "FROM spans ORDER BY ALL") == rows(elsewhere, "FROM spans ORDER BY ALL")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("export HF_TOKEN=abcdefgh x=1", "export HF_TOKEN=*** x=1"),
        ('{"api_key": "abcd-1234", "max_tokens": 17}', '{"api_key": "***", "max_tokens": 17}'),
        ("Authorization: Bearer abcdef0123456789", "Authorization: Bearer ***"),
        ("git clone https://me:hunter22@host/x", "git clone https://me:***@host/x"),
        ("using sk-abcdefgh12345678 now", "using *** now"),
        ("next token: 31337, key_heads=4", "next token: 31337, key_heads=4"),
        ("a" * (1 << 20), "a" * (1 << 20)),
        ("a." * (1 << 19) + " " * (1 << 19), "a." * (1 << 19) + " " * (1 << 19)),
    ],
    ids=range(8),
)
def test_logs_lose_their_secrets_only(text: str, shown: str) -> None:
    began = time.monotonic()
    assert redact_text(text) == shown
    assert time.monotonic() - began < 5, "a log must not hold the export up"


def test_an_existing_file_is_not_written_over(home: Path, run: RunDirectory, bundle: Path) -> None:
    with pytest.raises(UsageError, match="exists"):
        write_bundle(home, run, bundle)
    with pytest.raises(StorageError):
        write_bundle(home, run, bundle.parent / "no" / "such" / "place.zip")


# -- hostile and damaged ones --------------------------------------------------------------------


def unpacked(bundle: Path) -> Members:
    with zipfile.ZipFile(bundle) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def packed(path: Path, members: Members, *, honest: bool = True) -> Path:
    """Pack members as ours are; ``honest``: with a table that says what is in it."""
    if honest:
        contents = json.loads(members[CONTENTS])
        contents["members"] = [
            {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in members.items()
            if name != CONTENTS
        ]
        members = members | {CONTENTS: json.dumps(contents).encode()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            stored = name.endswith(".parquet")
            kind = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name), data, kind)
    return path


def edited(name: str, /, **fields: Any) -> Callable[[Members], Members]:
    def edit(members: Members) -> Members:
        [found] = [one for one in members if one.startswith(name)]
        data = json.loads(members[found])
        return members | {found: json.dumps(data | fields).encode()}

    return edit


def edited_first(part: str, /, **fields: Any) -> Callable[[Members], Members]:
    """The first of a list in the seal, edited."""

    def edit(members: Members) -> Members:
        [found] = [one for one in members if one.startswith("seals/")]
        data = json.loads(members[found])
        data[part][0] |= fields
        return members | {found: json.dumps(data).encode()}

    return edit


def renamed(old: str, new: str) -> Callable[[Members], Members]:
    def edit(members: Members) -> Members:
        return {(new if name.startswith(old) else name): data for name, data in members.items()}

    return edit


def without(name: str) -> Callable[[Members], Members]:
    return lambda members: {n: data for n, data in members.items() if not n.startswith(name)}


def foreign_parquet(members: Members) -> Members:
    """The samples' file in place of the spans'."""
    found = {name.split("/")[1]: name for name in members if name.startswith("parquet/")}
    return members | {found["span"]: members[found["sample"]]}


def deep(members: Members) -> Members:
    return members | {"run.json": b'{"a":' * 90_000 + b"1" + b"}" * 90_000}


ATTACKS: dict[str, Callable[[Members], Members]] = {
    "a path that climbs": renamed("logs/", "logs/../../../evil"),
    "an absolute path": renamed("logs/", "/tmp/evil"),
    "a file of no kind of ours": renamed("logs/", "spool/evil.seg"),
    "a backslash": renamed("logs/", "logs\\evil"),
    "a directory": renamed("logs/", "logs/"),
    "no manifest": without("run.json"),
    "no seal for the files": without("seals/"),
    "no file for the seal": without("parquet/span"),
    "a file of another table": foreign_parquet,
    "a run id that climbs": edited(CONTENTS, run_id="../../evil"),
    "another run's id": edited(CONTENTS, run_id="other-20260101-000000-0000"),
    "a format that is no number": edited(CONTENTS, format="1"),
    "a format below all": edited(CONTENTS, format=0),
    "a manifest of wrong types": edited("run.json", command="rm -rf"),
    "a manifest's number too large": edited("run.json", started_ns=2**70),
    "a world too large": edited("run.json", world_size=2**40),
    "a status of its own": edited("run.json", status="\x1b[2J"),
    "a name that moves the cursor": edited("run.json", name="\x1b]0;x\x07"),
    "text that is none": edited("run.json", notes="\ud800"),
    "bottomless JSON": deep,
    "labels of wrong types": edited("labels.json", tags="abc"),
    "a seal of a later format": edited("seals/", format=99),
    "a seal of another run": edited("seals/", run_id="other"),
    "a seal of wrong types": edited("seals/", files=3),
    "a negative count": edited("seals/", expired=-1),
    "a file of another run": edited_first("files", path="span/run=other/host=h/hour=2026010100/"),
    "a file of a wrong size": edited_first("files", bytes=1),
    "a file of wrong rows": edited_first("files", rows=10**12),
    "a process of another run": edited_first("processes", process=7),
    "coordinates that are none": edited_first("processes", coordinates="{"),
    "a rank too large": edited_first("processes", rank=2**40),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_and_leaves_nothing(
    attack: str, elsewhere: Path, tmp_path: Path
) -> None:
    path = packed(tmp_path / "bad.zip", ATTACKS[attack](unpacked(SHIPPED)))
    with pytest.raises(DataError):
        import_bundle(elsewhere, path)
    assert list_runs(elsewhere) == []
    left = [one for one in elsewhere.rglob("*") if one.is_file()] if elsewhere.exists() else []
    assert left == []
    assert not list(tmp_path.rglob("*evil*"))


def test_the_untouched_members_would_have_been_taken(elsewhere: Path, tmp_path: Path) -> None:
    import_bundle(elsewhere, packed(tmp_path / "good.zip", unpacked(SHIPPED)))


def refused(home: Path, path: Path, match: str) -> None:
    with pytest.raises(DataError, match=match):
        import_bundle(home, path)
    assert list_runs(home) == []


def test_a_later_format_says_what_to_do(elsewhere: Path, tmp_path: Path) -> None:
    members = edited(CONTENTS, format=2, opsuite="9.9")(unpacked(SHIPPED))
    with pytest.raises(DataError, match=r"format 2 \(written by opsuite 9.9\)") as told:
        import_bundle(elsewhere, packed(tmp_path / "new.zip", members))
    assert told.value.remedy == "upgrade opsuite"


def test_a_wrong_checksum(elsewhere: Path, tmp_path: Path) -> None:
    members = unpacked(SHIPPED)
    members["config.toml"] = b"x" * len(members["config.toml"])
    path = packed(tmp_path / "bad.zip", members, honest=False)
    refused(elsewhere, path, r"config\.toml is not what its checksum says")


def test_two_members_of_one_name(elsewhere: Path, tmp_path: Path) -> None:
    path = shutil.copy(SHIPPED, tmp_path / "double.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(zipfile.ZipInfo("config.toml"), b"evil", zipfile.ZIP_DEFLATED)
    refused(elsewhere, Path(path), "two members of one name")


@pytest.mark.parametrize("mode", [0o120777, 0o040755, 0o020600])
def test_links_directories_and_devices(mode: int, elsewhere: Path, tmp_path: Path) -> None:
    path = tmp_path / "link.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in unpacked(SHIPPED).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode if name == "config.toml" else 0o100600) << 16
            parquet = name.endswith(".parquet")
            archive.writestr(info, data, zipfile.ZIP_STORED if parquet else zipfile.ZIP_DEFLATED)
    refused(elsewhere, path, "is no file")


def test_bombs(elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = unpacked(SHIPPED)
    large = members | {"logs/bomb.log": bytes(65 << 20)}
    refused(elsewhere, packed(tmp_path / "bomb.zip", large), "too large")
    monkeypatch.setattr(bundle_import_module, "MOST_MEMBERS", 50)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for index in range(51):
            archive.writestr(f"logs/{index}", b"")
    refused(elsewhere, tmp_path / "many.zip", "too many")


def test_members_that_lie_upon_each_other(elsewhere: Path, tmp_path: Path) -> None:
    """A table whose entries all name the same bytes: a small file that unpacks to a large one."""
    data = bytearray(SHIPPED.read_bytes())
    at = data.index(b"PK\x01\x02")
    while data[at : at + 4] == b"PK\x01\x02":
        name, extra, comment = struct.unpack_from("<3H", data, at + 28)
        if data[at + 46 : at + 46 + name].startswith(b"parquet/"):
            struct.pack_into("<2I", data, at + 20, 100_000, 100_000)
        at += 46 + name + extra + comment
    path = tmp_path / "upon.zip"
    path.write_bytes(data)
    refused(elsewhere, path, "lie upon each other")


def test_every_cut_is_seen(elsewhere: Path, tmp_path: Path) -> None:
    whole = SHIPPED.read_bytes()
    path = tmp_path / "cut.zip"
    for end in [*range(0, len(whole) - 1, 397), len(whole) - 1]:
        path.write_bytes(whole[:end])
        refused(elsewhere, path, "bundle")


def test_flipped_bytes_change_nothing_that_counts(elsewhere: Path, tmp_path: Path) -> None:
    """Refused, or of no consequence (such as a date in the archive's table)."""
    whole = SHIPPED.read_bytes()
    path = tmp_path / "flipped.zip"
    run_id = import_bundle(tmp_path / "good", SHIPPED).run_id
    expected = RunDirectory.open(tmp_path / "good", run_id).manifest
    taken = 0
    for at in range(0, len(whole), 211):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            import_bundle(elsewhere, path)
        except DataError:
            continue
        taken += 1
        assert RunDirectory.open(elsewhere, "fixture").manifest == expected
        shutil.rmtree(elsewhere)
    assert taken < len(whole) / 211 / 5


def test_what_is_no_bundle(elsewhere: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    for text in (b"", b"hello", b"PK\x05\x06" + bytes(18), bytes(5000)):
        path.write_bytes(text)
        refused(elsewhere, path, "not a bundle")
    with pytest.raises(UsageError, match="no such file"):
        import_bundle(elsewhere, tmp_path / "none.zip")
    with pytest.raises((StorageError, UsageError)):
        import_bundle(elsewhere, tmp_path)


def test_no_space_is_said_before_anything_is_written(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(StorageError, match="no space left"):
        import_bundle(elsewhere, SHIPPED)
    assert list(elsewhere.iterdir()) == []


def test_bundles_of_version_1_are_read_for_ever(elsewhere: Path) -> None:
    import_bundle(elsewhere, SHIPPED)
    expected = json.loads((FIXTURE / "expected.json").read_text())
    for sql, answer in expected.items():
        assert [list(row) for row in rows(elsewhere, sql)] == answer, sql
