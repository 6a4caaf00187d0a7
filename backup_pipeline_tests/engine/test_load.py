"""How the rows of a dump are divided among connections."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_pipeline.engine.load import Piece, pieces_of
from backup_pipeline.engine.model import Member, Section

MIB = 1 << 20


def members_of(*sizes: tuple[int, ...]) -> list[Member]:
    """Members side by side: a tuple for each table, with the raw length of each of its members."""
    made: list[Member] = []
    offset = 0
    for table in sizes:
        for number, size in enumerate(table):
            continues = "COPY public.t (a) FROM stdin;" if number else None
            unfinished = number < len(table) - 1
            made.append(
                Member(
                    Section.DATA, offset, size, size, "0" * 64, (), continues, unfinished=unfinished
                )
            )
            offset += size
    return made


def shape(pieces: list[Piece]) -> list[list[list[int]]]:
    """Of each piece the sizes in MiB, chain by chain."""
    return [[[m.raw_length // MIB for m in c.members] for c in piece] for piece in pieces]


def test_a_table_is_loaded_whole_and_the_largest_first() -> None:
    members = members_of((10 * MIB,), (30 * MIB, 20 * MIB), (40 * MIB,))
    pieces = pieces_of(members, 2)
    assert shape(pieces) == [[[30, 20]], [[40]], [[10]]]
    assert not any(chain.cut for piece in pieces for chain in piece)


def test_a_table_that_all_would_wait_for_is_loaded_by_several() -> None:
    members = members_of((10 * MIB,), (64 * MIB, 64 * MIB, 3 * MIB), (20 * MIB,))
    pieces = pieces_of(members, 2)
    assert shape(pieces) == [[[64]], [[64]], [[20]], [[10]], [[3]]]
    assert [piece[0].cut for piece in pieces] == [True, True, False, False, True]


def test_one_connection_loads_every_table_whole() -> None:
    members = members_of((64 * MIB, 64 * MIB, 3 * MIB))
    assert shape(pieces_of(members, 1)) == [[[64, 64, 3]]]


def test_small_neighbours_share_a_request_and_others_do_not() -> None:
    members = members_of(*[(MIB,)] * 10, (50 * MIB,), *[(MIB,)] * 3)
    assert shape(pieces_of(members, 2)) == [[[50]], [[1]] * 8, [[1]] * 3, [[1]] * 2]


@pytest.mark.parametrize("jobs", [1, 2, 5])
@given(
    tables=st.lists(
        st.lists(st.integers(1, 100 * MIB), min_size=1, max_size=4).map(tuple), max_size=30
    )
)
def test_each_member_is_loaded_once_and_a_piece_is_one_run(
    jobs: int, tables: list[tuple[int, ...]]
) -> None:
    members = members_of(*tables)
    pieces = pieces_of(members, jobs)
    taken = [member for piece in pieces for chain in piece for member in chain.members]
    assert sorted(taken, key=lambda member: member.offset) == members
    for piece in pieces:
        run = [member for chain in piece for member in chain.members]
        offsets = [member.offset + member.length for member in run[:-1]]
        assert offsets == [member.offset for member in run[1:]]
        for chain in piece:
            whole = chain.members[0].continues is None and not chain.members[-1].unfinished
            assert whole or chain.cut
