"""What goes into systemd's files of the daemon's own settings."""

from __future__ import annotations

from cove.cli.system.unitfiles import environment
from cove.engine.system.info import settings


def test_the_daemons_settings_go_on() -> None:
    seen = settings({
        "PATH": "/bin", "HOME": "/root", "COVE_DEFAULT_NETWORK": "none", "COVE_DEBUG": "",
        "COVE_DOCKER_SOCKET": "/run/x.sock", "COVE_DOCKER_GROUP": "docker",
        "HTTPS_PROXY": "http://proxy:3128", "http_proxy": "http://me:secret@proxy",
        "COVE_DOCKER_TLS": 'address=[::1]:1,ca=/a b/50%/"c"\\$d',
    })  # fmt: skip
    assert "secret" not in str(seen) and seen["http_proxy"] == ""
    assert environment(seen).splitlines() == [
        'Environment="COVE_DEFAULT_NETWORK=none"',
        'Environment="COVE_DOCKER_TLS=address=[::1]:1,ca=/a b/50%%/\\"c\\"\\\\$d"',
        'Environment="HTTPS_PROXY=http://proxy:3128"',
    ]
