"""Write the golden plans anew (``make golden``), and say which changed. Read the diff."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.build import recorded
    from tests.golden.cases import HERE, Case, cases
    from tests.golden.guests import GuestCase, guest_cases

    wanted: list[Case | GuestCase | recorded.Case | recorded.Planned]
    wanted = [*cases(), *guest_cases(), *recorded.cases(), *recorded.plans()]
    found = {*HERE.glob("*/*.plan"), *HERE.glob("*/*.qemu"), *recorded.goldens()}
    for path in found - {case.golden for case in wanted}:
        path.unlink()
        print(f"removed {path.relative_to(ROOT)}")
    for case in wanted:
        text = case.text()
        if not case.golden.exists() or case.golden.read_text() != text:
            case.golden.write_text(text)
            print(f"wrote {case.golden.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
