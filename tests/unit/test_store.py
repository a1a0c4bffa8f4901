"""The store keeps what it was told, refuses what it cannot trust, and says why."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from cove.errors import BadArchive, Conflict, HostError, NotFound
from cove.spec.machine import MachineSpec
from cove.store import gc
from cove.store.blobs import Blobs
from cove.store.db import KEY_BLOCK, MIGRATIONS, Store
from cove.store.layout import FORMAT
from cove.store.ranges import RANGES
from cove.store.records import ImageRecord, LayerRecord, MachineRecord


def machine(
    key: int, name: str, *, state: str = "created", remove: bool = False, image: str = "host"
) -> MachineRecord:
    spec = MachineSpec(image=image, remove=remove)
    return MachineRecord(key, f"{key:064x}", name, spec, image, state, 1.5)


def image(number: int, *layers: str) -> ImageRecord:
    return ImageRecord(f"sha256:{number:064x}", {"os": "linux"}, layers, 10, 1.0)


def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        record = machine(store.new_key(), "ada")
        store.add_machine(record)
        store.put_layer(LayerRecord(2, "sha256:aa", 5, 1.0))
        store.put_image(image(1, "sha256:aa"))
        store.tag("docker.io/library/a:latest", image(1).id)
    with Store.open(tmp_path / "s") as store:
        assert store.machines() == [record]
        assert store.machine(record.key) == record
        assert store.layer("sha256:aa") == LayerRecord(2, "sha256:aa", 5, 1.0)
        assert store.images() == [image(1, "sha256:aa")]
        assert store.tags() == {"docker.io/library/a:latest": image(1).id}


def test_keys_are_never_given_twice(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        first = [store.new_key() for _ in range(KEY_BLOCK + 3)]
    with Store.open(tmp_path / "s") as store:
        second = [store.new_key() for _ in range(3)]
    assert len({*first, *second}) == len(first) + len(second)
    assert min(second) > max(first)


def test_a_transaction_is_whole_or_nothing(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        store.add_machine(machine(1, "ada"))
        with pytest.raises(RuntimeError, match="half way"), store.transaction():
            store.add_machine(machine(2, "bob"))
            store.remove_machine(1)
            raise RuntimeError("half way")
        assert [m.name for m in store.machines()] == ["ada"]
        assert store.name_free("bob")
        assert not store.name_free("ada")
        with store.transaction(), store.transaction():
            store.add_machine(machine(3, "eve"))
    with Store.open(tmp_path / "s") as store:
        assert [m.name for m in store.machines()] == ["ada", "eve"]


class TestNames:
    def test_found_by_name_id_and_prefix(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store:
            one = msgspec.structs.replace(machine(1, "ada"), id="abc1" + "0" * 60)
            two = msgspec.structs.replace(machine(2, "abc"), id="abd2" + "0" * 60)
            store.add_machine(one)
            store.add_machine(two)
            assert store.find_machine("ada") == one
            assert store.find_machine("abc1") == one
            assert store.find_machine("abc") == two, "a name goes before a prefix"
            assert store.find_machine(two.id) == two
            with pytest.raises(Conflict) as error:
                store.find_machine("ab")
            assert error.value.message == (
                'cannot find machine "ab": 2 machines have ids that begin with it'
            )

    @pytest.mark.parametrize("text", ["nobody", "", "ff", "0" * 65, "a\x1b[31m"])
    def test_nobody_by_that_name(self, tmp_path: Path, text: str) -> None:
        with Store.open(tmp_path / "s") as store:
            store.add_machine(machine(1, "ada"))
            with pytest.raises(NotFound) as error:
                store.find_machine(text)
            assert error.value.message == f'cannot find machine "{text}": no such machine'
            assert error.value.exit_code == 1

    def test_a_name_is_given_once(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store:
            store.add_machine(machine(1, "ada"))
            with pytest.raises(Conflict) as error:
                store.add_machine(machine(2, "ada"))
            assert error.value.message == ('cannot use the name "ada": machine 000000000000 has it')
            assert "cove rm ada" in error.value.hint
            assert [m.key for m in store.machines()] == [1]

    def test_an_exited_rm_machine_gives_its_name_up(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store:
            store.add_machine(machine(1, "ada", remove=True))
            store.put_machine(machine(1, "ada", remove=True, state="exited"))
            assert store.name_free("ada")
            assert store.find_machine("ada").key == 1, "as long as nobody else has it"
            store.add_machine(machine(2, "ada"))
            assert store.find_machine("ada").key == 2
            store.remove_machine(1)
            assert store.find_machine("ada").key == 2

    def test_an_exited_machine_keeps_its_name(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store:
            store.add_machine(machine(1, "ada", state="exited"))
            assert not store.name_free("ada")

    def test_renamed(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store:
            store.add_machine(machine(1, "ada"))
            store.put_machine(machine(1, "eve"))
            assert store.name_free("ada")
            assert store.find_machine("eve").key == 1


class TestRanges:
    def test_one_holder_each_and_not_reused_at_once(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store:
            first = store.take_range(1)
            store.free_range(1)
            assert store.take_range(2) != first

    def test_all_taken(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store:
            assert len({store.take_range(key) for key in range(RANGES)}) == RANGES
            with pytest.raises(HostError, match="all 4096 id ranges are in use"):
                store.take_range(-1)
            store.free_range(7)
            assert store.take_range(-1) == 7

    def test_running_machines_hold_theirs_after_reopening(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store:
            index = store.take_range(1)
            store.add_machine(msgspec.structs.replace(machine(1, "ada"), id_range=index))
        with Store.open(tmp_path / "s") as store:
            assert index not in {store.take_range(key) for key in range(2, RANGES + 1)}
            store.remove_machine(1)
            assert store.take_range(99) == index


class TestTheDirectory:
    def test_one_daemon_at_a_time(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store:
            Path(store.layout.daemon_pid).write_text("4711\n")
            with pytest.raises(Conflict) as error:
                Store.open(tmp_path / "s")
            assert error.value.message == (
                f"cannot lock {tmp_path}/s: the daemon with pid 4711 has it"
            )
        Store.open(tmp_path / "s").close()

    def test_the_lock_is_handed_down(self, tmp_path: Path) -> None:
        Store.open(tmp_path / "s").close()
        held = os.open(tmp_path / "s/lock", os.O_RDWR)
        with Store.open(tmp_path / "s", lock_fd=held) as store:
            assert store.lock_fd == held
            assert not os.get_inheritable(held)

    def test_another_file_is_not_its_lock(self, tmp_path: Path) -> None:
        Store.open(tmp_path / "s").close()
        other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
        with pytest.raises(HostError, match="is not its lock"):
            Store.open(tmp_path / "s", lock_fd=other)
        os.close(other)

    def test_modes(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store:
            for directory, mode in store.layout.directories():
                assert os.stat(directory).st_mode & 0o777 == mode, directory
            assert os.stat(store.layout.database).st_mode & 0o777 == 0o600

    def test_written_by_a_newer_cove(self, tmp_path: Path) -> None:
        Store.open(tmp_path / "s").close()
        (tmp_path / "s/format").write_text(f"{FORMAT + 1}\n")
        with pytest.raises(HostError) as error:
            Store.open(tmp_path / "s")
        assert error.value.message == (
            f"cannot use the state directory {tmp_path}/s: it was written by a newer cove"
        )
        assert error.value.host == f"format {FORMAT + 1}, this cove knows {FORMAT}"

    @pytest.mark.parametrize("text", ["", "one", "-1"])
    def test_a_damaged_format_file(self, tmp_path: Path, text: str) -> None:
        Store.open(tmp_path / "s").close()
        (tmp_path / "s/format").write_text(text)
        with pytest.raises(HostError, match="format is damaged"):
            Store.open(tmp_path / "s")

    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "s").write_text("")
        with pytest.raises(HostError, match=r"cannot use the state directory .*: not a directory"):
            Store.open(tmp_path / "s")

    def test_a_link_in_a_directory_s_place(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "s").mkdir(mode=0o700)
        (tmp_path / "s/roots").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(HostError, match="not a directory"):
            Store.open(tmp_path / "s")

    def test_everybody_may_write(self, tmp_path: Path) -> None:
        (tmp_path / "s").mkdir()
        (tmp_path / "s").chmod(0o777)
        with pytest.raises(HostError, match="everybody may write to it"):
            Store.open(tmp_path / "s")

    def test_somebody_else_s(self, tmp_path: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root: uid is not 0")
        (tmp_path / "s").mkdir()
        os.chown(tmp_path / "s", 12345, 12345)
        with pytest.raises(HostError, match="it belongs to uid 12345"):
            Store.open(tmp_path / "s")

    @pytest.mark.parametrize("content", [b"nonsense" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
    def test_a_damaged_database(self, tmp_path: Path, content: bytes) -> None:
        Store.open(tmp_path / "s").close()
        (tmp_path / "s/cove.db").write_bytes(content)
        with pytest.raises(HostError, match=r"cove\.db is damaged"):
            Store.open(tmp_path / "s")

    def test_a_record_that_cannot_be_read(self, tmp_path: Path) -> None:
        Store.open(tmp_path / "s").close()
        database = sqlite3.connect(tmp_path / "s/cove.db")
        database.execute("INSERT INTO machine VALUES (1, 'a', 'b', 'c', '{\"key\": \"no\"}')")
        database.commit()
        database.close()
        with pytest.raises(HostError, match=r"cove\.db is damaged"):
            Store.open(tmp_path / "s")

    def test_another_program_has_the_database(self, tmp_path: Path) -> None:
        Store.open(tmp_path / "s").close()
        database = sqlite3.connect(tmp_path / "s/cove.db", isolation_level=None)
        database.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Conflict, match="another program has"):
            Store.open(tmp_path / "s")
        database.close()
        Store.open(tmp_path / "s").close()

    def test_full(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store:
            store.add_machine(machine(1, "ada"))
            store._execute("PRAGMA max_page_count = 1")
            big = msgspec.structs.replace(machine(2, "eve"), argv=("x" * 1_000_000,))
            with pytest.raises(HostError) as error:
                store.add_machine(big)
            assert error.value.message == (
                f"cannot use the state directory {tmp_path}/s: no space left on device"
            )
            assert [m.name for m in store.machines()] == ["ada"], "memory is as the file is"


class TestImages:
    def test_one_that_a_machine_is_made_of_stays(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store:
            store.put_image(image(1))
            store.tag("a", image(1).id)
            store.add_machine(machine(1, "ada", image=image(1).id))
            with pytest.raises(Conflict, match="cannot remove image 000000000000: machine ada"):
                store.remove_image(image(1).id)
            assert store.tags() == {"a": image(1).id}
            store.remove_machine(1)
            store.remove_image(image(1).id)
            assert store.tags() == {}
            assert store.images() == []

    def test_no_tag_without_an_image(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store, pytest.raises(NotFound):
            store.tag("a", image(1).id)

    def test_collection_takes_what_nobody_needs(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store:
            blobs = Blobs(store.layout)
            config = blobs.put(b"config")
            loose, pinned = blobs.put(b"loose"), blobs.put(b"pinned")
            store.put_layer(LayerRecord(1, "sha256:used", 1, 1.0))
            store.put_layer(LayerRecord(2, "sha256:loose", 1, 1.0))
            store.put_layer(LayerRecord(3, "sha256:pinned", 1, 1.0))
            store.put_image(ImageRecord(config, {}, ("sha256:used",), 1, 1.0))
            with store.pinned("sha256:pinned", pinned):
                found = gc.collect(store)
            assert [layer.key for layer in found.layers] == [2]
            assert found.directories == (store.layout.layer(2),)
            assert found.blobs == (loose,)
            assert blobs.has(config)
            assert blobs.has(pinned)
            assert [layer.key for layer in gc.collect(store).layers] == [3]

    def test_strays_are_what_no_record_names(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store:
            store.add_machine(machine(7, "ada"))
            store.put_layer(LayerRecord(8, "sha256:a", 1, 1.0))
            root = Path(store.layout.root)
            for path in ("roots/u7", "roots/u9", "roots/l8", "roots/l9", "machines/7",
                         "machines/9", "tmp/x", "roots/keep"):  # fmt: skip
                (root / path).mkdir()
            (root / "run/7.sock").touch()
            (root / "run/9.sock").touch()
            (root / "run/front.sock").touch()
            found = {Path(path).relative_to(root).as_posix() for path in gc.strays(store)}
            assert found == {"roots/u9", "roots/l9", "machines/9", "tmp/x", "run/9.sock"}


class TestBlobs:
    def test_content_is_what_the_digest_says(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store:
            blobs = Blobs(store.layout)
            digest = blobs.put(b"hello")
            assert blobs.read(digest) == b"hello"
            assert blobs.digests() == [digest]
            Path(blobs.path(digest)).write_bytes(b"hullo")
            with pytest.raises(HostError, match="is damaged"):
                blobs.read(digest)

    def test_the_wrong_digest_leaves_nothing(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store:
            blobs = Blobs(store.layout)
            with pytest.raises(BadArchive, match="cannot store blob sha256:0000"):
                blobs.put(b"hello", "sha256:" + "0" * 64)
            assert blobs.digests() == []
            assert os.listdir(store.layout.tmp) == []

    @pytest.mark.parametrize(
        "digest",
        ["", "sha256:", "sha256:../../../etc/passwd", "md5:00", "sha256:" + "A" * 64,
         "sha256:" + "0" * 64 + "/.."],
    )  # fmt: skip
    def test_a_digest_is_no_path(self, tmp_path: Path, digest: str) -> None:
        with Store.open(tmp_path / "s") as store, pytest.raises(BadArchive, match="cannot use"):
            Blobs(store.layout).read(digest)

    def test_unknown(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "s") as store, pytest.raises(NotFound, match="no such blob"):
            Blobs(store.layout).read("sha256:" + "0" * 64)


# ---- older and newer state ----


LATER = ("leftover", "snapshot", "stratum", "network", "volume", "build", "image_index")
"""Tables that cove 0.1 had not."""


def older(root: Path) -> None:
    """What cove 0.1 wrote: format 1, without the tables that came later."""
    with closing(sqlite3.connect(root / "cove.db")) as db:
        tables = "".join(f"DROP TABLE {name}; " for name in LATER)
        db.executescript(f"{tables}PRAGMA user_version = 1;")
    (root / "format").write_text("1\n")


def version_of(root: Path) -> int:
    with closing(sqlite3.connect(root / "cove.db")) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def test_an_older_state_is_migrated(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        key = store.new_key()
    older(tmp_path / "s")
    with Store.open(tmp_path / "s") as store:
        assert store.leftovers() == []
        assert store.new_key() > key
    assert (tmp_path / "s/format").read_text() == f"{FORMAT}\n"
    assert version_of(tmp_path / "s") == FORMAT == len(MIGRATIONS)


def test_a_migration_is_done_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(tmp_path / "s"):
        pass
    older(tmp_path / "s")
    broken = "CREATE TABLE half (x); CREATE TABLE machine (x);"
    monkeypatch.setattr("cove.store.db.MIGRATIONS", (MIGRATIONS[0], broken))
    with pytest.raises(HostError, match="cannot use the state directory"):
        Store.open(tmp_path / "s")
    monkeypatch.undo()
    assert version_of(tmp_path / "s") == 1
    with closing(sqlite3.connect(tmp_path / "s/cove.db")) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    assert "half" not in tables
    with Store.open(tmp_path / "s") as store:
        assert store.machines() == []


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with Store.open(root):
        pass
    with closing(sqlite3.connect(root / "cove.db")) as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    for path in sorted(root.rglob("*")):
        if path.is_file():
            os.utime(path, (1, 1))
    before = {p: (p.stat().st_mtime, p.stat().st_size) for p in root.rglob("*") if p.is_file()}
    with pytest.raises(HostError, match="it was written by a newer cove") as error:
        Store.open(root)
    assert error.value.host == f"format {FORMAT + 1}, this cove knows {FORMAT}"
    after = {p: (p.stat().st_mtime, p.stat().st_size) for p in root.rglob("*") if p.is_file()}
    assert after == before
