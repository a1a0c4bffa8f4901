"""Testcontainers for Python against cove, with images of nginx and postgres that are made here.

    make test-testcontainers          # python -m tests.proofs.of_testcontainers PYTHON

PYTHON is one that has testcontainers. Its Ryuk is off (``TESTCONTAINERS_RYUK_DISABLED``): that
container would have the daemon's socket, and is an image of Docker's registry. What it is asked is
``by_testcontainers.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.driver import ROOT, clean_env, new_cove
from tests.proofs.__main__ import IMAGE, make_image
from tests.shared import fetch_kernel, give_guests

NGINX = 'FROM services:1\nEXPOSE 80\nCMD ["nginx", "-g", "daemon off;"]\n'
POSTGRES = r"""FROM services:1
EXPOSE 5432
USER postgres
COPY <<"END" /begin
B=$(echo /usr/lib/postgresql/*/bin); D=/tmp/data; export PGPASSWORD=$POSTGRES_PASSWORD
echo "$POSTGRES_PASSWORD" > /tmp/password
$B/initdb -D $D -U "$POSTGRES_USER" --pwfile /tmp/password -A scram-sha-256 > /dev/null
echo "host all all all scram-sha-256" >> $D/pg_hba.conf
$B/pg_ctl -D $D -w -o "-k /tmp -c listen_addresses=" start > /dev/null
$B/createdb -h /tmp -U "$POSTGRES_USER" "$POSTGRES_DB"
$B/pg_ctl -D $D -w stop > /dev/null
exec $B/postgres -D $D -k /tmp -c "listen_addresses=*"
END
ENTRYPOINT ["sh", "/begin"]
"""
"""Obeys the variables of Docker's own image."""


def prove(python: str) -> int:
    cove = new_cove(network="bridge")
    try:
        give_guests(cove)
        cove("load", "-i", str(IMAGE), timeout=600)
        for name, text in (("nginx", NGINX), ("postgres", POSTGRES)):
            cove("build", "-q", "-t", f"{name}:made", "-", stdin=text, timeout=600)
        env = clean_env()
        env |= {
            "DOCKER_HOST": cove("system", "docker-socket").out.strip(),
            "DOCKER_CONFIG": "/nonexistent",
            "TESTCONTAINERS_RYUK_DISABLED": "true",
            # Else it asks gateways for ports where it takes this host for a container.
            "TESTCONTAINERS_CONNECTION_MODE": "docker_host",
        }
        script = Path(__file__).with_name("by_testcontainers.py")
        words = [python, "-W", "ignore", str(script)]
        code = subprocess.run(words, env=env, check=False).returncode
        assert not cove("ps", "-aq").out, "something was left"
        return code
    except BaseException:
        print(cove.post_mortem(), file=sys.stderr)
        raise
    finally:
        cove.close()


def main(words: list[str]) -> int:
    if os.environ.get("COVE_PROOFS") != "inside":
        if not IMAGE.exists():
            make_image()
        fetch_kernel()
        inside = os.environ | {"COVE_PROOFS": "inside"}
        again = ["unshare", "--net", sys.executable, "-m", "tests.proofs.of_testcontainers", *words]
        return subprocess.run(again, env=inside, cwd=ROOT, check=False).returncode
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return prove(*words)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
