"""``--format``: the templates of Docker's documentation of ps, inspect and images."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cove.cli.images import verbs as images
from cove.cli.machines import inspect
from cove.cli.machines import ps as list
from cove.engine import calls
from cove.errors import CoveError, UsageError
from cove.shown import table, units
from cove.shown.template import Record, compile_template
from cove.spec.machine import Limits, MachineSpec, Mount
from cove.store.records import Cause, ImageRecord, MachineRecord

SPEC = MachineSpec(
    "busybox",
    ("sh", "-c", "sleep 1000000"),
    labels={"com.example.cpu-count": "2", "env": "prod"},
    mounts=(
        Mount("bind", "/data", "/srv/data", read_only=True),
        Mount("tmpfs", "/run", origin="--mount type=tmpfs,target=/run"),
        Mount("tmpfs", "/t"),
    ),
    limits=Limits(memory=64 << 20, cpus=1.5),
    network="host",
)
RECORD = MachineRecord(
    key=1,
    id="4c01db0b339c" + "0" * 52,
    name="web",
    spec=SPEC,
    image="sha256:" + "a" * 64,
    state="running",
    created=1_700_000_000.0,
    argv=("sh", "-c", "sleep 1000000"),
    started=1_700_000_060.0,
    pid=4242,
)
IMAGE = ImageRecord(
    id="sha256:" + "a" * 64,
    config={
        "architecture": "amd64",
        "os": "linux",
        "created": "2023-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "Labels": {"l": "1"}},
    },
    layers=("sha256:" + "b" * 64,),
    size=4_860_000,
    created=1_600_000_000.0,
    digests=("busybox@sha256:" + "c" * 64,),
)
NOW = 1_700_000_060.0 + 125


def ps_row() -> Record:
    return list.row(RECORD, calls.Sizes(12_300, 5_000_000), now=NOW, full=False, zone=units.UTC)


PS = [
    ("{{.ID}}: {{.Command}}", '4c01db0b339c: "sh -c \'sleep 100000…"'),
    ("{{.Names}}", "web"),
    ("{{.Image}}", "busybox"),
    ("{{.RunningFor}}", "3 minutes ago"),
    ("{{.Status}}", "Up 2 minutes"),
    ("{{.State}}", "running"),
    ("{{.CreatedAt}}", "2023-11-14 22:13:20 +0000 UTC"),
    ("{{.Ports}}|{{.Networks}}|{{.LocalVolumes}}", "|host|0"),
    ("{{.Size}}", "12.3kB (virtual 5MB)"),
    ("{{.Labels}}", "com.example.cpu-count=2,env=prod"),
    ('{{.Label "com.example.cpu-count"}}', "2"),
    ('{{.Label "none"}}.', "."),
    ("{{.Mounts}}", "/srv/data"),
    ("{{upper .Names}} {{lower .State}} {{title .Image}}", "WEB running Busybox"),
    ("{{json .Names}}", '"web"'),
    ("{{if eq .State \"running\"}}up{{else}}down{{end}}", "up"),
    ("{{pad .Names 2 3}}|", "  web   |"),
    ("{{truncate .ID 4}}", "4c01"),
    ('{{.ID}}\\t{{.Names}}', "4c01db0b339c\tweb"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "text"), PS)
def test_ps(form: str, text: str) -> None:
    row = ps_row()
    row["Command"] = list.quoted(list.shorten("sh -c 'sleep 1000000'", 20))
    assert table.render([row], list.LISTING, form) == text + "\n"


def test_a_table_is_aligned_under_its_headings() -> None:
    text = table.render([ps_row()], list.LISTING, "table {{.ID}}\\t{{.Names}}\\t{{.Labels}}")
    assert text.splitlines() == [
        "MACHINE ID     NAMES     LABELS",
        "4c01db0b339c   web       com.example.cpu-count=2,env=prod",
    ]


def test_the_plain_table() -> None:
    head, row = table.render([ps_row()], list.LISTING, "").splitlines()
    assert head.split() == [
        "MACHINE",
        "ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ]
    assert row.startswith("4c01db0b339c   busybox   ")
    assert row.endswith("web")
    assert head.index("NAMES") == row.index("web")
    assert table.render([], list.LISTING, "table").splitlines() == [head_of(list.LISTING)]


def head_of(listing: table.Listing) -> str:
    return table.render([], listing, "").splitlines()[0]


def test_a_labels_column_is_headed_by_its_last_word() -> None:
    text = table.render([], list.LISTING, 'table {{.ID}}\t{{.Label "com.example.cpu-count"}}')
    assert text == "MACHINE ID   cpu count\n"


def test_json_of_a_listing() -> None:
    for form in ("json", "{{json .}}"):
        found = json.loads(table.render([ps_row()], list.LISTING, form))
        assert found["ID"] == "4c01db0b339c"
        assert "Label" not in found


def test_names_from_machines_are_escaped() -> None:
    row = ps_row().whole() | {"Command": "\x1b]0;title\x07", "Names": "a\nb"}
    text = table.render([Record(row)], list.LISTING, "{{.Command}}")
    assert "\x1b" not in text and "\x07" not in text


def test_quiet() -> None:
    assert table.render([ps_row()], list.LISTING, "", quiet=True) == "4c01db0b339c\n"


# ---- images ----


def test_images() -> None:
    image = calls.Image(IMAGE, ("busybox:latest", "docker.example/x/y:1"), 1)
    rows = [*images.rows(image, now=NOW, full=False, zone=units.UTC)]
    text = table.render(rows, images.LISTING, "{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}}")
    assert text == (
        "busybox:latest aaaaaaaaaaaa 4.86MB\ndocker.example/x/y:1 aaaaaaaaaaaa 4.86MB\n"
    )
    for form in ("table {{.ID}}\t{{.Repository}}\t{{.Tag}}", "{{.Digest}}", "{{.CreatedSince}}",
                 "{{.CreatedAt}}", "{{.ID}}: {{.Repository}}", "json", "{{json .}}"):  # fmt: skip
        assert table.render(rows, images.LISTING, form)
    assert table.render(rows, images.LISTING, "").splitlines()[0].split() == (
        ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    )


# ---- inspect ----

DOCUMENT = inspect.machine_document(
    calls.Inspected(RECORD, IMAGE, "busybox:latest", "/x/log", "/x", sizes=calls.Sizes(1, 2))
)

INSPECT = [
    ("{{.Id}}", RECORD.id),
    ("{{.Name}}", "/web"),
    ("{{.State.Status}}", "running"),
    ("{{.State.Pid}} {{.State.Running}} {{.State.ExitCode}}", "4242 true 0"),
    ("{{.State.StartedAt}}", "2023-11-14T22:14:20.000000000Z"),
    ("{{.State.FinishedAt}}", "0001-01-01T00:00:00Z"),
    ("{{.LogPath}}", "/x/log"),
    ("{{.Config.Image}}", "busybox"),
    ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", ""),
    ("{{range .NetworkSettings.Networks}}{{.MacAddress}}{{end}}", ""),
    ("{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}", "host "),
    (
        "{{range $p, $conf := .NetworkSettings.Ports}} {{$p}} -> "
        "{{(index $conf 0).HostPort}} {{end}}",
        "",
    ),
    ('{{join .Args " , "}}', "-c , sleep 1000000"),
    ("{{range .Args}}{{.}}\n{{end}}", "-c\nsleep 1000000\n"),
    ("{{range .Args}}{{println .}}{{end}}", "-c\nsleep 1000000\n"),
    ("{{json .Config.Env}}", '["PATH=/bin"]'),
    ("{{index .Config.Env 0}}", "PATH=/bin"),
    ('{{index .Config.Labels "env"}}', "prod"),
    ("{{with .State}}{{.Status}}{{end}}", "running"),
    ("{{len .Mounts}}", "2"),
    (
        "{{range .Mounts}}{{.Type}} {{.Source}}:{{.Destination}} {{.RW}};{{end}}",
        "bind /srv/data:/data false;tmpfs :/run true;",
    ),
    ("{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}", "67108864 1500000000"),
    ("{{.HostConfig.NetworkMode}}", "host"),
    ('{{split .Image ":"}}', "[sha256 " + "a" * 64 + "]"),
    ("{{.Path}} {{.Args}}", "sh [-c sleep 1000000]"),
    ("{{.SizeRw}}/{{.SizeRootFs}}", "1/2"),
    ("{{.Isolation}} {{.Cause.kind}}", "container "),
    ("{{.RestartCount}}", "0"),
    ("{{if .State.OOMKilled}}oom{{else if .State.Running}}up{{end}}", "up"),
    ("{{.Config.Labels.missing}}", "<no value>"),
    ('{{ .Name | upper | printf "%-6s|" }}', "/WEB  |"),
    ("{{range .Config.Cmd}}{{.}} {{end}}", "sh -c sleep 1000000 "),
    ('{{- /* a comment */ -}}  {{.Name}}  {{- " x" }}', "/web x"),
    ("{{and .State.Running (not .State.Paused)}}", "true"),
    ('{{or .Config.User "root"}}', "root"),
    ("{{$s := .State}}{{$s.Status}}", "running"),
    ("{{range $i, $a := .Args}}{{if $i}},{{end}}{{$a}}{{end}}", "-c,sleep 1000000"),
    ('{{range .Args}}{{if eq . "-c"}}{{continue}}{{end}}{{.}}{{break}}{{end}}', "sleep 1000000"),
    ("{{range .NetworkSettings.Ports}}x{{else}}none{{end}}", "none"),
    ('{{printf "%s %d %q %v" .Name .State.Pid .Path .Args}}', '/web 4242 "sh" [-c sleep 1000000]'),
    ("{{(index .Mounts 0).Source}}", "/srv/data"),
    ("{{`raw {{` }}", "raw {{"),
    ("{{slice .Id 0 4}}", "4c01"),
    ('{{eq .State.Status "exited" "running"}} {{gt .State.Pid 1}} {{ne 1 2}}', "true true true"),
]


@pytest.mark.parametrize(("form", "text"), INSPECT)
def test_inspect(form: str, text: str) -> None:
    assert compile_template(form).render(DOCUMENT) == text


def test_whole_documents_are_json() -> None:
    for form in ("{{json .}}", "{{json .Config}}", "{{json .State}}", "{{json .Mounts}}"):
        assert json.loads(compile_template(form).render(DOCUMENT)) is not None


def test_an_image() -> None:
    document = inspect.image_document(calls.Image(IMAGE, ("busybox:latest",), 0))
    for form, text in (
        ("{{.Id}}", IMAGE.id),
        ("{{index .RepoTags 0}}", "busybox:latest"),
        ("{{index .RepoDigests 0}}", IMAGE.digests[0]),
        ("{{.Os}}/{{.Architecture}}", "linux/amd64"),
        ("{{.Config.Cmd}}", "[sh]"),
        ("{{json .Config.Labels}}", '{"l":"1"}'),
        ("{{.Size}}", "4860000"),
        ("{{range .RootFS.Layers}}{{.}}{{end}}", IMAGE.layers[0]),
    ):
        assert compile_template(form).render(document) == text


WRONG = [
    ("{{.Nme}}", 'there is no field "Nme"', "did you mean Name?"),
    ("{{.State.Staus}}", 'there is no field "Staus"', "did you mean Status?"),
    ("{{.Name", "a {{ is not closed", ""),
    ("{{range .Args}}x", "has no {{end}}", ""),
    ("{{end}}", "{{end}} has no if, range or with before it", ""),
    ("{{uper .Name}}", 'there is no function "uper"', "did you mean upper?"),
    ("{{index .Args 9}}", "9 is not an index of a list of 2", ""),
    ("{{.Name.First}}", 'there is no field "First" in /web', ""),
    ("{{range .Name}}{{end}}", "range cannot go over /web", ""),
    ("{{$x}}", "there is no variable $x", ""),
    ("{{.Name .Id}}", ".Name takes no arguments", ""),
    ("{{(.Name}}", "is not closed", ""),
    ("{{}}", "ends too early", ""),
    ("{{.Name ! }}", "is not understood", ""),
    ('{{template "x"}}', "template is not supported", ""),
    ("{{break}}", "break and continue belong into a range", ""),
    ('{{join .Name ","}}', "join: it joins a list", ""),
    ("{{.__class__}}", 'there is no field "__class__"', ""),
]


@pytest.mark.parametrize(("form", "message", "hint"), WRONG)
def test_wrong_templates(form: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        compile_template(form).render(DOCUMENT)
    assert message in caught.value.message
    assert hint in caught.value.hint


@given(st.text(alphabet='{}.|"$()ranged if xName-:=,1 `\\n', max_size=60))
def test_any_template_gives_text_or_an_error_of_cove(form: str) -> None:
    data: dict[str, Any] = {"Name": "n", "x": [1, 2], "a": {"b": None}}
    try:
        assert isinstance(compile_template(form).render(data), str)
    except CoveError as error:
        assert error.message


def test_huge_widths_make_no_huge_texts() -> None:
    for form in ('{{printf "%999999999d" 1}}', "{{pad .Name 999999999 0}}"):
        assert len(compile_template(form).render(DOCUMENT)) < 20_000


# ---- words for sizes and times ----


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (1234567, "1.23MB"), (999_999, "1MB"),
     (5_000_000_000, "5GB"), (123_456, "123kB")],
)  # fmt: skip
def test_sizes(size: int, text: str) -> None:
    assert units.human_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"),
        (150, "2 minutes"), (3600, "About an hour"), (3600 * 5, "5 hours"), (86400 * 3, "3 days"),
        (86400 * 15, "2 weeks"), (86400 * 70, "2 months"), (86400 * 800, "2 years"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert units.human_duration(seconds) == text


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ("created", "Created"), ("running", "Up 2 minutes"), ("paused", "Up 2 minutes (Paused)"),
        ("exited", "Exited (137) 5 seconds ago"), ("dead", "Dead"),
    ],
)  # fmt: skip
def test_status(state: str, text: str) -> None:
    record = MachineRecord(
        1, "a", "n", SPEC, "i", state, 0.0, started=NOW - 125, finished=NOW - 5, exit_code=137,
        cause=Cause("oom"),
    )  # fmt: skip
    assert list.status(record, NOW) == text
