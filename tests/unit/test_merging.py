"""Packets of several links are told in the order of their times, and none is held for good."""

from __future__ import annotations

import random

from cove.net.merging import MOST, PATIENCE, WINDOW, Merge, Packet


def packet(when: int) -> Packet:
    return when, 1, b"x"


def test_links_that_are_read_in_pieces_are_one_row() -> None:
    """Whatever pieces they are read in, some of them late."""
    chance = random.Random(5)
    for _ in range(50):
        merge = Merge((1, 2, 3))
        left = {n: sorted(chance.sample(range(10**9), chance.randrange(300))) for n in (1, 2, 3)}
        whole = sorted(packet(when) for times in left.values() for when in times)
        told: list[Packet] = []
        now = 0
        while any(left.values()):
            now += 10**8
            for link, times in left.items():
                # Nothing takes longer than the window from its time to where it is read.
                piece = times[: chance.randrange(60)]
                old = [when for when in times if when < now - WINDOW]
                merge.take(link, map(packet, piece), since=0)
                del times[: len(piece)]
                if len(piece) >= len(old):
                    merge.drained(link, now)
            told += merge.ready(0)
        told += merge.rest()
        assert told == whole


def test_one_link_waits_for_nobody() -> None:
    merge = Merge((1, 2))
    merge.take(1, [packet(7)], since=0)
    assert merge.ready(0) == [] and merge.waits()
    merge.end(2)
    assert merge.ready(0) == [packet(7)] and not merge.waits()


def test_a_silent_link_holds_up_nobody_longer_than_the_window() -> None:
    merge = Merge((1, 2))
    merge.take(1, [packet(100)], since=0)
    merge.drained(2, 100 + WINDOW - 1)
    assert merge.ready(0) == []
    merge.drained(2, 100 + WINDOW)
    assert merge.ready(0) == [packet(100)]


def test_a_clock_that_was_set_back_holds_nothing_for_good() -> None:
    merge = Merge((1, 2))
    merge.take(1, [packet(10**18)], since=5)
    merge.drained(2, 10)
    assert merge.ready(5 + PATIENCE - 1) == []
    assert merge.ready(5 + PATIENCE) == [packet(10**18)]


def test_no_more_is_held_than_there_is_room_for() -> None:
    merge = Merge((1, 2))
    merge.take(1, map(packet, range(1, MOST)), since=0)
    assert merge.wanted(1)
    merge.take(1, [packet(MOST)], since=0)
    assert not merge.wanted(1) and merge.wanted(2)
    merge.take(2, [packet(MOST)], since=0)
    assert len(merge.ready(0)) == MOST + 1 and merge.wanted(1)
