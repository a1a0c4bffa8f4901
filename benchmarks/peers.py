"""The contestants: how each is found, set up on the same busybox root, and asked to do one thing.

Daemons of peers are not started here: the benchmark says how. All run with their own state below
one temporary directory, in no network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Elsewhere, run_command

HOW = """\
  bwrap, crun, runc   apt-get install bubblewrap crun runc
  podman              apt-get install podman
  docker              apt-get install docker.io; then, in a network namespace of its own:
                      unshare --net dockerd --bridge=none --iptables=false --data-root D/data \\
                        --exec-root D/exec -H unix://D/sock & export BENCH_DOCKER=D/sock
  ctr                 apt-get install containerd; unshare --net containerd --root C/root \\
                        --state C/state --address C/sock & export BENCH_CONTAINERD=C/sock
"""

Command = list[str]


@dataclass(frozen=True)
class Peer:
    """Commands of one contestant; an empty one means it does not do that."""

    name: str
    env: dict[str, str]
    run: Command = ()  # type: ignore[assignment]
    start: Command = ()  # type: ignore[assignment]
    """Detached start; ``{}`` stands for the name."""
    execute: Command = ()  # type: ignore[assignment]
    remove: Command = ()  # type: ignore[assignment]
    list: Command = ()  # type: ignore[assignment]
    elsewhere: Elsewhere | None = None

    def time(self, argv: Iterable[str], name: str = "") -> tuple[float, int]:
        """Wall milliseconds and exit status of one of the commands, ``{}`` filled with name."""
        command = [word.replace("{}", name) for word in argv]
        return (self.elsewhere.run if self.elsewhere else run_command)(command, self.env)


def make_root(place: Path) -> Path:
    """A busybox root file system and a tar of it."""
    root = place / "bb"
    (root / "bin").mkdir(parents=True)
    busybox = shutil.which("busybox") or "/bin/busybox"
    shutil.copy(busybox, root / "bin/busybox")
    for name in ("true", "sh", "sleep", "cat", "echo", "dd", "ls"):
        (root / "bin" / name).symlink_to("busybox")
    for name in ("proc", "sys", "dev", "tmp", "etc"):
        (root / name).mkdir()
    archive = place / "bb.tar"
    subprocess.run(["tar", "-C", root, "--numeric-owner", "-cf", archive, "."], check=True)
    return root


def bundle(place: Path, root: Path, argv: Command) -> Path:
    """An OCI bundle as ``crun spec`` writes it, without a terminal, with a network of its own."""
    there = place / f"bundle-{argv[0]}"
    there.mkdir()
    subprocess.run(["crun", "spec"], cwd=there, check=True)
    config = json.loads((there / "config.json").read_text())
    config["process"]["terminal"] = False
    config["process"]["args"] = argv
    config["process"]["rlimits"] = []
    config["root"] = {"path": str(root), "readonly": False}
    (there / "config.json").write_text(json.dumps(config))
    return there


def base_env() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root")}


def floor_peers(place: Path, root: Path) -> list[Peer]:
    """What the kernel alone costs, and the tools that have no images."""
    env = base_env()
    found = [Peer("static true", env, run=[str(root / "bin/true")])]
    found.append(
        Peer("unshare, 6 namespaces", env, run=["unshare", "-muinpf", str(root / "bin/true")])
    )
    if shutil.which("bwrap"):
        jail = ["bwrap", "--bind", str(root), "/", "--proc", "/proc", "--dev", "/dev"]
        found.append(Peer("bwrap", env, run=[*jail, "--unshare-all", "/bin/true"]))
    return found


def runtime_peers(place: Path, root: Path) -> list[Peer]:
    """crun without and with cgroups, runc."""
    env, found = base_env(), []
    if not shutil.which("crun"):
        return []
    short, long = bundle(place, root, ["true"]), bundle(place, root, ["sleep", "100000"])
    elsewhere = Elsewhere()
    for name, flags in (
        ("crun", ["crun", "--cgroup-manager=disabled"]),
        ("crun with cgroups", ["crun", "--cgroup-manager=cgroupfs"]),
        ("runc", ["runc"]),
    ):
        if not shutil.which(flags[0]):
            continue
        tool = [*flags, "--root", str(place / name.replace(" ", "-"))]
        found.append(
            Peer(
                name,
                env,
                run=[*tool, "run", "-b", str(short), "bench-run"],
                start=[*tool, "run", "-d", "-b", str(long), "{}"],
                execute=[*tool, "exec", "{}", "/bin/true"],
                remove=[*tool, "delete", "-f", "{}"],
                list=[*tool, "list"],
                elsewhere=elsewhere if flags[0] == "crun" else None,
            )
        )
    return found


def docker_like(name: str, tool: Command, env: dict[str, str], image: str) -> Peer:
    start = [*tool, "run", "-d", "--network", "none", "--name", "{}"]
    start += ["--stop-timeout", "0"]  # podman's rm -f waits for it, and sleep ignores SIGTERM
    return Peer(
        name,
        env,
        run=[*tool, "run", "--rm", "--network", "none", image, "true"],
        start=[*start, image, "sleep", "100000"],
        execute=[*tool, "exec", "{}", "true"],
        remove=[*tool, "rm", "-f", "{}"],
        list=[*tool, "ps"],
    )


def engine_peers(place: Path) -> list[Peer]:
    """podman, docker and containerd, each where it is installed and its daemon answers."""
    found = []
    archive = str(place / "bb.tar")
    if shutil.which("podman"):
        conf = place / "containers.conf"
        conf.write_text(
            '[containers]\ndefault_ulimits=["nofile=20000:20000","nproc=32768:32768"]\n'
            '[engine]\ncgroup_manager="cgroupfs"\nruntime="runc"\nevents_logger="file"\n'
        )
        env = base_env() | {"CONTAINERS_CONF": str(conf)}
        tool = ["podman", "--root", str(place / "podman"), "--runroot", str(place / "podman-run")]
        if _does([*tool, "import", archive, "bb"], env):
            found.append(docker_like("podman", tool, env, "bb"))
    if socket := os.environ.get("BENCH_DOCKER"):
        env = base_env() | {"DOCKER_HOST": f"unix://{socket}"}
        if _does(["docker", "import", archive, "bb"], env):
            found.append(docker_like("docker", ["docker"], env, "bb"))
    if socket := os.environ.get("BENCH_CONTAINERD"):
        found += containerd_peer(place, socket)
    return found


def containerd_peer(place: Path, socket: str) -> list[Peer]:
    env, tool, image = base_env(), ["ctr", "-a", socket], "docker.io/library/bb:latest"
    layout = place / "bb.oci"
    made = (
        _does(["umoci", "init", "--layout", str(layout)], env)
        and _does(["umoci", "new", "--image", f"{layout}:latest"], env)
        and _does(["umoci", "insert", "--image", f"{layout}:latest", str(place / "bb"), "/"], env)
        and _does(["tar", "-C", str(layout), "-cf", str(place / "bb.oci.tar"), "."], env)
        and _does([*tool, "image", "import", "--index-name", image, str(place / "bb.oci.tar")], env)
    )
    if not made:
        return []
    return [
        Peer(
            "ctr",
            env,
            run=[*tool, "run", "--rm", image, "bench-run", "/bin/true"],
            start=[*tool, "run", "-d", image, "{}", "/bin/sleep", "100000"],
            execute=[*tool, "task", "exec", "--exec-id", "bench", "{}", "/bin/true"],
            remove=["sh", "-c", f"ctr -a {socket} task kill -s 9 {{}}; sleep 0.1; "
                    f"ctr -a {socket} task rm -f {{}}; ctr -a {socket} container rm {{}}"],
            list=[*tool, "container", "ls"],
        )
    ]  # fmt: skip


def _does(argv: Command, env: dict[str, str]) -> bool:
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    if done.returncode:
        print(f"  ({argv[0]} left out: {(done.stderr or done.stdout).strip()[-200:]})")
    return done.returncode == 0
