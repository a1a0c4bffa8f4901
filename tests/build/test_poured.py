"""Which files of a COPY may stand in the archive of its layer as they are: those that nothing of
the tree, and nothing of their own, is in the way of.
"""

from __future__ import annotations

import pytest

from cove.build.files.entries import FILE, FOLDER, LINK, Entry
from cove.build.files.poured import LITTLE, MANY, divided
from cove.build.files.select import Place, Placed

NEW = Place("new", folder=True, exists=False)
OLD = Place("old", folder=True, exists=True)
TOP = Placed(Entry("", FOLDER, 0o755), "new", made=True)


def files(folder: str, count: int = MANY) -> list[Placed]:
    return [file(f"{folder}/f{number}") for number in range(count)]


def file(target: str, kind: str = FILE, **more: object) -> Placed:
    return Placed(Entry(target, kind, content=0, **more), target)  # type: ignore[arg-type]


def test_a_folder_that_is_made_goes_first_and_the_rest_behind() -> None:
    mine = files("new")
    assert divided([(3, [TOP, *mine])], NEW) == ([(3, [TOP])], [(3, mine)])


def test_of_files_alone_the_first_little_one_brings_the_folder() -> None:
    large, shared = file("old/big", size=LITTLE + 1), file("old/two", shared=True)
    sub, mine = file("old/sub", FOLDER), [*files("old/sub"), *files("old")]
    found = divided([(3, [large, shared, sub, *mine])], OLD)
    assert found == ([(3, [sub])], [(3, [large, shared, *mine])])
    assert divided([(3, [file("old/big", size=LITTLE + 1) for _ in mine])], OLD) is None


def test_few_files_go_through_the_tree() -> None:
    assert divided([(3, [TOP, *files("new", MANY - 2)])], NEW) is None


@pytest.mark.parametrize(
    "more",
    [
        [file("new/f7")],
        [file("new/l", LINK, link="/etc"), file("new/l/passwd")],
        [file("new/d", FOLDER), file("new/d")],
        [file("new/missing/f")],
        [file("beside")],
        [file("new/.wh.f7")],
        [file("new/.wh..wh..opq")],
        [file("new/o", uid=65536)],
        [file("new/o", gid=65536)],
        [file("new/x", xattrs=(("user.a", "b"),))],
        [file("new/\udc80")],
        [file("new/l", LINK, link="\udc80")],
    ],
)
def test_what_may_be_in_the_way_goes_through_the_tree(more: list[Placed]) -> None:
    """Also where it comes from another source."""
    assert divided([(3, [TOP, *files("new"), *more])], NEW) is None
    assert divided([(3, [TOP, *files("new")]), (4, more)], NEW) is None


def test_a_file_of_another_name_is_not_taken_for_a_folder() -> None:
    place = Place("new", folder=False, exists=False)
    assert divided([(3, files("new"))], place) is None
    assert divided([(3, [TOP, *files("new")])], place) is not None
