"""``build``: Dockerfiles become images, on the real kernel."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import secrets
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cove.store.layout import Layout
from tests.build.conftest import Build
from tests.driver import Cove, Done, wait_until

pytestmark = pytest.mark.usefixtures("tidied")


def put(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def says(cove: Cove, image: str, script: str) -> str:
    return cove("run", "--rm", "--entrypoint", "sh", image, "-c", script).out


def config_of(cove: Cove, image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cove("image", "inspect", image).out)[0]
    return found


def test_stages_that_do_the_same_at_once_are_one(build: Build, tmp_path: Path) -> None:
    """Two layers that differ in a time would have the next build do what is above them anew."""
    put(tmp_path, f="1")
    same = "COPY f /folder/f\nWORKDIR /other\n"
    takes = "".join(f"COPY --from=s{n} /folder/f /{n}\n" for n in range(4))
    text = "".join(f"FROM scratch AS s{n}\n{same}" for n in range(4)) + f"FROM scratch\n{takes}"
    ids = {build(text, "-q", *flags).out for flags in (("--no-cache",), (), ())}
    assert len(ids) == 1


def id_of(done: Done) -> str:
    return done.err.rpartition("writing image ")[2].split()[0]


def wait_for_line(caller: subprocess.Popen[bytes], end: bytes) -> None:
    """Until a program of the build has said it."""
    assert caller.stderr is not None
    while not (line := caller.stderr.readline()).rstrip().endswith(end) or b"RUN" in line:
        assert line


# ---- the slice from top to bottom ----

SLICE = """\
FROM bb
ENV GREETING=hello
WORKDIR /work
RUN echo "$GREETING from $(pwd)" >said && echo loud
COPY a.txt sub/ ./
CMD ["cat", "said", "a.txt", "inner"]
"""


def test_an_image_is_built_and_runs(cove: Cove, build: Build, tmp_path: Path) -> None:
    put(tmp_path, a_dot_txt="A\n", sub__inner="I\n")
    done = build(SLICE, "-t", "slice")
    assert "[3/4] RUN echo" in done.err and " loud\n" in done.err and done.out == ""
    assert cove("run", "--rm", "slice").out == "hello from /work\nA\nI\n"


def test_nothing_is_done_twice(cove: Cove, build: Build, tmp_path: Path) -> None:
    put(tmp_path, a_dot_txt="A\n", sub__inner="I\n")
    first = id_of(build(SLICE, "-t", "again"))
    os.utime(tmp_path / "a.txt", (5, 5))
    second = build(SLICE, "-t", "again")
    assert second.err.count("CACHED") == 3 and id_of(second) == first
    put(tmp_path, a_dot_txt="B\n")
    third = build(SLICE, "-t", "again")
    assert third.err.count("CACHED") == 2 and id_of(third) != first
    assert "\nB\n" in cove("run", "--rm", "again").out
    fourth = build(SLICE, "--no-cache", "-t", "again")
    assert "CACHED" not in fourth.err


def test_the_config_is_what_buildkit_writes(cove: Cove, build: Build) -> None:
    text = """\
FROM bb
ARG WHO=ada
LABEL a=1 b="2 3"
ENV X=1 Y=$X
EXPOSE 80 53/udp
VOLUME /data
USER $WHO
WORKDIR /srv
RUN id -un >/tmp/who
ENTRYPOINT ["/bin/sh", "-c"]
CMD echo hi
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD true
ONBUILD RUN true
SHELL ["/bin/sh", "-ec"]
"""
    build(text, "-t", "conf", "--label", "c=4")
    data = json.loads(cove("image", "inspect", "--format", "{{json .}}", "conf").out)
    config = data["Config"]
    assert config["Labels"] == {"a": "1", "b": "2 3", "c": "4"}
    assert config["Env"][-2:] == ["X=1", "Y="] and config["User"] == "ada"
    assert set(config["ExposedPorts"]) == {"80/tcp", "53/udp"}
    assert config["WorkingDir"] == "/srv" and config["StopSignal"] == "SIGINT"
    assert config["Entrypoint"] == ["/bin/sh", "-c"]
    assert config["Cmd"] == ["/bin/sh", "-c", "echo hi"]
    assert says(cove, "conf", "cat /tmp/who; stat -c %U /srv") == "ada\nada\n"
    lines = cove("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", "conf").out
    newest = lines.splitlines()
    assert newest[0] == 'SHELL ["/bin/sh" "-ec"]|buildkit.dockerfile.v0'
    assert "RUN |1 WHO=ada /bin/sh -c id -un >/tmp/who # buildkit|buildkit.dockerfile.v0" in newest


# ---- copy ----


def test_where_copied_files_go(cove: Cove, build: Build, tmp_path: Path) -> None:
    put(tmp_path, one="1", two="2", dir__a="a", dir__sub__b="b")
    (tmp_path / "dir/link").symlink_to("sub/b")
    (tmp_path / "alias").symlink_to("one")
    (tmp_path / "one").chmod(0o640)
    text = """\
FROM bb
RUN mkdir -p /usr/lib && ln -s usr/lib /lib && mkdir /there
COPY one /file
COPY one /there
COPY one two /new/
COPY dir /whole
COPY d*r/a /glob/
COPY alias /alias
COPY one /lib/one
COPY --chown=ada:wheel --chmod=751 dir /owned/
COPY --chown=7 one /seven
COPY --chmod=640 two /deep/er/
COPY --chown=7 --chmod=o= one /low/er
COPY --exclude=sub --exclude=li* dir /less/
COPY --parents dir/sub/b /parents/
COPY <<EOF /here
doc $HOME
EOF
"""
    build(text, "-t", "copied")
    script = """
    cat /file /there/one /new/one /new/two /whole/a /whole/sub/b /whole/link /glob/a /alias; echo
    readlink /whole/link; test -h /alias && echo link; cat /usr/lib/one; echo
    stat -c '%a %u %g %n' /file /owned/a /owned/sub /seven /deep /deep/er/two \\
        /low /low/er
    ls /less; find /parents | sort; cat /here
    """
    assert says(cove, "copied", script).splitlines() == [
        "1112abba1",
        "sub/b",
        "1",
        "640 0 0 /file",
        "751 1000 10 /owned/a",
        "751 1000 10 /owned/sub",
        "640 7 7 /seven",
        "640 0 0 /deep",
        "640 0 0 /deep/er/two",
        "755 7 7 /low",
        "640 7 7 /low/er",
        "a",
        "/parents",
        "/parents/dir",
        "/parents/dir/sub",
        "/parents/dir/sub/b",
        "doc ",
    ]


def test_stages_are_built_beside_each_other(cove: Cove, build: Build) -> None:
    text = """\
FROM bb AS one
RUN mkdir /out && echo one >/out/one && ln /out/one /out/again && mkfifo /out/fifo
FROM bb AS two
RUN echo two >/two
FROM bb AS never
RUN exit 1
FROM scratch
COPY --from=one /out /from-one
COPY --from=two /two /
COPY --from=bb /bin/busybox /bin/sh
"""
    done = build(text, "-t", "stages")
    assert "never" not in done.err
    script = "read a </from-one/one; read b </from-one/again; read c </two; echo $a $b $c"
    assert says(cove, "stages", script) == "one one two\n"
    again = build(text, "-t", "stages")
    assert again.err.count("CACHED") == 5
    build(text, "--target", "two", "-t", "two")
    assert says(cove, "two", "cat /two") == "two\n"
    assert "exit code 1" in build(text, "--target", "never", code=1).err


def test_what_another_stage_made_again_is_known_by_its_files(build: Build) -> None:
    text = """\
FROM bb AS one
RUN echo {} >/rest; echo same >/file
FROM bb
COPY --from=one /file /file
RUN cat /file
"""
    build(text.format("a"))
    done = build(text.format("b"))
    assert done.err.count("CACHED") == 2 and done.err.count("DONE") == 3


def test_what_is_ignored_is_not_read(cove: Cove, build: Build, tmp_path: Path) -> None:
    put(tmp_path, _dot_dockerignore="secret\n*.log\n!keep.log\n", secret="s", a_dot_log="l")
    put(tmp_path, keep_dot_log="k", fine="f")
    os.mkfifo(tmp_path / "big.log")
    build("FROM bb\nCOPY . /all/\n", "-t", "ignored")
    assert says(cove, "ignored", "cd /all; ls -A").split() == [
        ".dockerignore", "Dockerfile", "fine", "keep.log",
    ]  # fmt: skip
    failed = build("FROM bb\nCOPY secret /\n", code=1)
    assert '"/secret" is not in the build context' in failed.err and "Dockerfile:2" in failed.err


def tar_of(**files: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size, info.uid, info.mode = len(text), 33, 0o640
            tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def test_archives_are_unpacked_by_add(cove: Cove, build: Build, tmp_path: Path) -> None:
    (tmp_path / "in.tgz").write_bytes(tar_of(d__f="F", e="E"))
    build(
        "FROM bb\nADD in.tgz /un/\nCOPY in.tgz /packed\nADD --chown=5 in.tgz /five/\n", "-t", "un"
    )
    script = "cat /un/d/f /un/e; echo; stat -c '%u %a' /un/e /five/e; gunzip -t </packed && echo gz"
    assert says(cove, "un", script) == "FE\n33 640\n5 640\ngz\n"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    root = tmp_path / "web"
    root.mkdir()
    (root / "file").write_bytes(b"web")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(root))

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_files_come_from_the_web(cove: Cove, build: Build, web: str) -> None:
    digest = hashlib.sha256(b"web").hexdigest()
    net = ("--network", "host")  # the server listens on this host's loopback
    build(f"FROM bb\nADD --checksum=sha256:{digest} {web}/file /w/\n", *net, "-t", "web")
    assert says(cove, "web", "cat /w/file; stat -c ' %a' /w/file") == "web 600\n"
    bad = build(f"FROM bb\nADD --checksum=sha256:{'0' * 64} {web}/file /w/\n", *net, code=1)
    assert f"has the digest sha256:{digest}" in bad.err
    assert "answered with 404" in build(f"FROM bb\nADD {web}/none /\n", *net, code=1).err
    failed = build(f"FROM bb\nADD {web}/file /again/\n", code=1)
    assert "this host's own loopback" in failed.err and "--network host" in failed.err


# ---- mounts ----


def test_what_a_step_is_given_beside_its_root(cove: Cove, build: Build, tmp_path: Path) -> None:
    put(tmp_path, ctx="C", token="T0P")
    text = """\
FROM bb AS other
RUN echo O >/o
FROM bb
RUN --mount=type=bind,target=/ctx --mount=type=bind,from=other,source=/o,target=/other \\
    cat /ctx/ctx /other >/seen; touch /ctx/x 2>/dev/null || echo ro >>/seen
RUN --mount=type=cache,target=/cache echo one >>/cache/f; cat /cache/f
RUN --mount=type=cache,target=/cache echo two >>/cache/f; cp /cache/f /kept
RUN --mount=type=tmpfs,target=/t touch /t/x && stat -f -c %T /t >>/seen
RUN --mount=type=secret,id=tok --mount=type=secret,id=tok,env=TOK \\
    cat /run/secrets/tok >>/seen; echo " $TOK $(stat -c %a /run/secrets/tok)" >>/seen
RUN <<EOF
echo doc >>/seen
EOF
RUN <<EOF
#!/bin/sh
echo $0 >>/seen
EOF
"""
    build(text, "-t", "mounts", "--secret", f"id=tok,src={tmp_path}/token")
    found = says(cove, "mounts", "cat /seen; cat /kept; ls /ctx /cache /run/secrets; true")
    assert found == "CO\nro\ntmpfs\nT0P T0P 400\ndoc\n/dev/pipes/EOF\none\ntwo\n"
    failed = build("FROM bb\nRUN --mount=type=secret,id=no,required=true true\n", code=1)
    assert 'the secret "no" is not given' in failed.err


def test_a_secret_is_on_no_disk(fresh_cove: Cove, tmp_path: Path) -> None:
    """In no layer, no record and no log; what a killed daemon leaves in memory is swept."""
    cove, word = fresh_cove, secrets.token_hex(20)
    (tmp_path / "token").write_text(word)
    (tmp_path / "Dockerfile").write_text(
        "FROM bb\n"
        "RUN --mount=type=secret,id=t --mount=type=secret,id=t,env=TOK,target=/s/t,uid=7,mode=0440 "
        'test "$TOK" = "$(cat /run/secrets/t)" && stat -c "%u %a" /s/t >/said '
        "&& echo ready && if test -e /wait/0; then exec sleep 10000; fi\n"
    )
    context = tmp_path / "context"
    context.mkdir()
    flags = ("--progress=plain", "-f", str(tmp_path / "Dockerfile"), "--secret",
             f"id=t,src={tmp_path}/token")  # fmt: skip
    first = cove("build", *flags, "-t", "one", str(context))
    assert (
        says(cove, "one", "cat /said; find / -xdev -name token; ls /run /s 2>&-; true") == "7 440\n"
    )
    assert word not in cove("image", "inspect", "one").out + cove("history", "one").out + first.err
    (tmp_path / "token").write_text(other := secrets.token_hex(20))
    assert "CACHED" in cove("build", *flags, "-t", "one", str(context)).err

    text = (tmp_path / "Dockerfile").read_text().replace("test -e /wait/0", "true")
    (tmp_path / "Dockerfile").write_text(text)
    caller = cove.spawn("build", *flags, str(context))
    wait_for_line(caller, b" ready")
    assert other not in cove("inspect", cove("ps", "-q").out.strip()).out
    for folder, _, names in os.walk(cove.root):
        for name in names:
            path = Path(folder, name)
            with suppress(FileNotFoundError):  # a daemon is at work in there
                data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
                assert word.encode() not in data and other.encode() not in data, path
    prefix = Layout(str(cove.root.resolve())).in_memory
    assert any(name.startswith(prefix) for name in os.listdir("/dev/shm"))
    cove.kill_daemon()
    caller.communicate()
    wait_until(lambda: not cove("ps", "-aq").out, "the end of the step's machine")
    assert not any(name.startswith(prefix) for name in os.listdir("/dev/shm"))


# ---- other contexts, outputs, flags ----


def test_a_dockerfile_on_standard_input(cove: Cove) -> None:
    cove("build", "-q", "-t", "stdin", "-", stdin="FROM bb\nRUN echo in >/f\n")
    assert says(cove, "stdin", "cat /f") == "in\n"
    failed = cove("build", "-", stdin="FROM bb\nCOPY x /\n", code=1)
    assert "is not in the build context" in failed.err


def test_an_archive_on_standard_input(cove: Cove) -> None:
    data = tar_of(Dockerfile="FROM bb\nCOPY . /c\n", x="X", skip="S", **{".dockerignore": "skip"})
    cove("build", "-q", "-t", "intar", "-", stdin=data)
    assert says(cove, "intar", "cat /c/x; ls /c") == "XDockerfile\nx\n"


def test_only_the_id_is_said(cove: Cove, build: Build, tmp_path: Path) -> None:
    put(tmp_path, x="x")
    done = build("FROM bb\nCOPY x /\n", "-q", "--iidfile", str(tmp_path / "iid"))
    assert done.out.strip() == (tmp_path / "iid").read_text() and done.err == ""
    assert config_of(cove, done.out.strip())["Id"] == done.out.strip()


def test_steps_as_json(cove: Cove, build: Build) -> None:
    done = build("FROM bb\nRUN echo j\n", "--progress=json", "--no-cache")
    events = [json.loads(line) for line in done.err.splitlines()]
    assert {event["event"] for event in events} == {"begin", "end", "log", "done"}


def test_warnings_and_a_check(cove: Cove, build: Build) -> None:
    done = build("FROM bb\nCMD echo $HOME\n")
    assert "1 warning found" in done.err and "JSONArgsRecommended" in done.err
    checked = build("FROM bb\nCMD echo $HOME\n", "--check", code=1)
    assert "JSONArgsRecommended" in checked.out
    assert "no warnings" in build('FROM bb\nCMD ["true"]\n', "--check").out


def test_arguments_and_hosts(cove: Cove, build: Build) -> None:
    text = (
        "FROM bb\nARG A=1\nARG B\nRUN echo $A $B >/f; grep -w db /etc/hosts >>/f; ulimit -n >>/f\n"
    )
    flags = ("--build-arg", "A=2", "--build-arg", "B", "--add-host", "db:10.0.0.5",
             "--ulimit", "nofile=77:99", "--network", "none")  # fmt: skip
    build(text, *flags, "-t", "args", env={"B": "from-env"})
    assert says(cove, "args", "cat /f").split() == ["2", "from-env", "10.0.0.5", "db", "77"]


def test_the_result_as_files(cove: Cove, build: Build, tmp_path: Path) -> None:
    put(tmp_path, x="x")
    text = "FROM scratch\nCOPY x /d/x\n"
    build(text, "-o", str(tmp_path / "out"))
    assert (tmp_path / "out/d/x").read_text() == "x"
    build(text, "--output", f"type=tar,dest={tmp_path}/out.tar")
    with tarfile.open(tmp_path / "out.tar") as tar:
        names = [name.removeprefix("./") for name in tar.getnames()]
    assert [name for name in names if name not in ("", ".")] == ["d", "d/x"]
    assert os.listdir(tmp_path / "out") == ["d"]
    before = cove("images", "-q").out
    build(text, "-o", "type=docker,dest=" + str(tmp_path / "image.tar"), "-t", "asfile")
    assert cove("load", "-i", str(tmp_path / "image.tar")).out == "Loaded image: asfile:latest\n"
    assert len(cove("images", "-q").out.split()) == len(before.split()) + 1


def test_the_result_as_files_leaves_alone_what_was_there(
    cove: Cove, build: Build, tmp_path: Path
) -> None:
    """The same image, whether somebody has named it or knows it by its id."""
    put(tmp_path, x="x")
    text = "FROM scratch\nCOPY x /d/x\nCMD kept\n"
    image = build(text, "-q").out.strip()
    build(text, "-o", str(tmp_path / "out"))
    cove("image", "inspect", image)
    build(text, "-t", "kept")
    build(text, "-o", str(tmp_path / "again"))
    assert cove("image", "inspect", "-f", "{{.Id}}", "kept").out.strip() == image


def test_a_time_for_everything(cove: Cove, build: Build, tmp_path: Path) -> None:
    put(tmp_path, x="x")
    text = 'FROM scratch\nENV A=1\nCOPY x /d/x\nCMD ["x"]\n'
    os.utime(tmp_path / "x", (7, 7))
    build(text, "-t", "epoch", env={"SOURCE_DATE_EPOCH": "1000000000"})
    config = config_of(cove, "epoch")
    assert config["Created"].startswith("2001-09-09T01:46:40")


# ---- errors ----


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FROM bb\nRUN exit 3\n", ["RUN ended with exit code 3", "Dockerfile:2  RUN exit 3"]),
        ("FROM bb\nRUN [\"/no/such\"]\n", ["/no/such", "Dockerfile:2"]),
        ("FROM bb\nCOPY nope /\n", ['"/nope" is not in the build context', "Dockerfile:2"]),
        ("FROM bb\nCOPY --from=bb /nope /\n", ['"/nope" is not in image', "Dockerfile:2"]),
        ("FROM bb\nCOPY --chown=eve Dockerfile /\n", ['no user is called "eve"', "Dockerfile:2"]),
        ("FROM bb\nCOPY Dockerfile /bin\nCOPY Dockerfile /etc/passwd/x\n", ["Dockerfile:3"]),
        ("FROM bb\nRUNN x\n", ["did you mean RUN?", "Dockerfile:2"]),
        ("FROM bb\nRUN --network=host true\n", ["--allow network.host", "Dockerfile:2"]),
        ("FROM host\nRUN true\n", ["image host", "bootstrap"]),
    ],
)  # fmt: skip
def test_errors_say_where(build: Build, text: str, words: list[str]) -> None:
    failed = build(text, code=1)
    for word in words:
        assert word in failed.err


def test_a_failed_step_is_not_kept(cove: Cove, build: Build) -> None:
    build("FROM bb\nRUN echo kept\nRUN echo out; false\n", code=1)
    done = build("FROM bb\nRUN echo kept\nRUN echo out; false\n", code=1)
    assert done.err.count("CACHED") == 1 and " out\n" in done.err


def test_the_last_words_of_a_step_that_failed(build: Build) -> None:
    text = "FROM bb\nRUN echo first; echo second >&2; \\\n  exit 7\n"
    quiet = build(text, "-q", code=1)
    assert quiet.out == "" and quiet.err.splitlines()[1:] == [
        "   first", "   second", "cove: cannot build Dockerfile: RUN ended with exit code 7",
        "  from: Dockerfile:2  RUN echo first; echo second >&2; \\…",
    ]  # fmt: skip
    assert build(text, code=1).err.count("second") == 5, "title twice, line twice, and the source"


# ---- hostile ----


def test_links_never_lead_out_of_a_context(cove: Cove, build: Build, tmp_path: Path) -> None:
    (tmp_path / "up").symlink_to("../../../../../../etc/passwd")
    (tmp_path / "abs").symlink_to("/etc/shadow")
    (tmp_path / "dir").symlink_to("/etc")
    for word in ("up", "abs", "dir/passwd", "dir", "../../etc/passwd"):
        failed = build(f"FROM bb\nCOPY {word} /got\n", code=1)
        assert "is not in the build context" in failed.err, word
    build("FROM bb\nCOPY . /all/\n", "-t", "links")
    assert says(cove, "links", "readlink /all/abs") == "/etc/shadow\n"


def test_special_files_are_named(cove: Cove, build: Build, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "new\nline").write_text("n")
    (tmp_path / os.fsdecode(b"byte\xff")).write_text("b")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "sock"))
        done = build("FROM bb\nCOPY . /all/\n", "-t", "special")
    assert "sock is a socket, which no image holds" in done.err
    script = "cd /all; test -p fifo && cat new* byte*; set -- *; echo $#"
    assert says(cove, "special", script) == "nb4\n"
    os.mknod(tmp_path / "device", 0o20600, os.makedev(1, 3))
    failed = build("FROM bb\nCOPY . /all/\n", code=1)
    assert "device is a device" in failed.err


def test_a_link_of_an_image_leads_to_its_own_files(
    cove: Cove, build: Build, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    text = f"""\
FROM bb AS evil
RUN mkdir -p {victim} && ln -s {victim} /out && ln -s /../../../..{victim}/f /file
RUN ln -s /etc/shadow /shadow
FROM evil
COPY Dockerfile /out/d
COPY Dockerfile /file
FROM bb
COPY --from=evil /shadow /got
"""
    failed = build(text, code=1)
    assert '"/shadow" is not in stage' in failed.err
    build(text, "--target", "1", "-t", "evil")
    assert not any(victim.iterdir())
    assert says(cove, "evil", f"ls {victim}") == "d\n"


def test_a_build_ends_with_its_caller(cove: Cove, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM bb\nRUN echo begun; sleep 10000\n")
    caller = cove.spawn("build", "--progress=plain", str(tmp_path))
    wait_for_line(caller, b" begun")
    assert len(cove("ps", "-q").out.split()) >= 1
    caller.terminate()
    caller.communicate()
    wait_until(lambda: not cove("ps", "-aq").out, "the end of the step's machine")


def test_a_build_ends_with_its_daemon(fresh_cove: Cove, tmp_path: Path) -> None:
    cove = fresh_cove
    (tmp_path / "Dockerfile").write_text("FROM bb\nRUN echo 1\nRUN echo begun; sleep 10000\n")
    caller = cove.spawn("build", "--progress=plain", str(tmp_path))
    wait_for_line(caller, b" begun")
    cove.kill_daemon()
    caller.communicate()
    wait_until(lambda: not cove("ps", "-aq").out, "the end of the step's machine")
    (tmp_path / "Dockerfile").write_text("FROM bb\nRUN echo 1\nRUN echo 2\n")
    done = cove("build", "--progress=plain", str(tmp_path))
    assert done.err.count("CACHED") == 1


def test_what_is_kept_can_be_forgotten(fresh_cove: Cove, tmp_path: Path) -> None:
    cove = fresh_cove
    (tmp_path / "Dockerfile").write_text("FROM bb\nRUN echo x >/x\n")
    cove("build", "-t", "gone", str(tmp_path))
    cove("rmi", "gone")
    assert "CACHED" in cove("build", "--progress=plain", "-t", "gone", str(tmp_path)).err
    cove("rmi", "gone")
    assert "Total reclaimed space: 0B" not in cove("builder", "prune", "-f").out
    assert "CACHED" not in cove("build", "--progress=plain", str(tmp_path)).err


def test_a_dockerfile_that_is_not_there_is_named_as_it_was_typed(
    cove: Cove, tmp_path: Path
) -> None:
    said = cove("build", "-f", "sub/Nofile", str(tmp_path), code=1).err
    assert said.startswith(f"cove: cannot build {tmp_path}: there is no sub/Nofile\n")
    assert "from: -f sub/Nofile\n" in said and "the working directory" in said
    said = cove("build", str(tmp_path), code=1).err
    assert (
        said == f"cove: cannot build {tmp_path}: there is no Dockerfile\n  hint: name it: -f FILE\n"
    )
