"""The signal frame as bytes: where its parts lie, read back by what the kernel's headers say."""

from __future__ import annotations

import struct

import pytest

from writewatch.abi.ptrace import RseqCs, UserRegs
from writewatch.kernel.ptrace import frame
from writewatch.kernel.ptrace.obstacles import where_it_aborts
from writewatch.kernel.ptrace.places import Place, has_room

STACK = 0x7FFD_0000_1234
SIGRETURN = 0x7F00_1000
MASK = bytes(range(8))
NAMES = [field[0] for field in UserRegs._fields_]


def area(length: int = 2432, in_use: int = 0xA6, features: int = 0xE7) -> bytes:
    data = bytearray(b"\xaa" * length)
    struct.pack_into("<Q", data, 464, features)
    struct.pack_into("<Q", data, 512, in_use)
    return bytes(data)


@pytest.fixture
def built() -> tuple[int, bytes]:
    registers = UserRegs(**{name: 1000 + n for n, name in enumerate(NAMES)})
    return frame.build(registers, STACK, MASK, area(), SIGRETURN)


def test_it_lies_below_the_red_zone_and_aligned_as_a_function_finds_it(built: tuple[int, bytes]) -> None:
    at, data = built
    assert at + len(data) <= STACK - 128
    assert at % 16 == 8


def test_the_first_word_is_where_the_thread_returns_to(built: tuple[int, bytes]) -> None:
    assert struct.unpack_from("<Q", built[1])[0] == SIGRETURN


def test_the_alternate_stack_is_invalid_so_it_is_left_alone(built: tuple[int, bytes]) -> None:
    flags, link, sp, ss_flags, size = struct.unpack_from("<QQQi4xQ", built[1], 8)
    assert (flags, link, sp, size) == (7, 0, 0, 0)
    assert ss_flags not in (0, 1, 2, 1 << 31)


def test_every_register_is_at_its_place(built: tuple[int, bytes]) -> None:
    order = [f"r{number}" for number in range(8, 16)]
    order += ["rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp", "rip", "eflags"]
    stored = struct.unpack_from("<18Q4H", built[1], 48)
    assert list(stored[:18]) == [1000 + NAMES.index(name) for name in order]
    assert stored[18:] == (1000 + NAMES.index("cs"), 0, 0, 1000 + NAMES.index("ss"))


def test_the_signal_mask_follows_the_registers(built: tuple[int, bytes]) -> None:
    assert built[1][48 + 256 : 48 + 264] == MASK


def test_the_vector_state_is_aligned_and_has_both_magic_words(built: tuple[int, bytes]) -> None:
    at, data = built
    (fp_at,) = struct.unpack_from("<Q", data, 48 + 184)
    assert fp_at % 64 == 0
    state = data[fp_at - at :]
    assert struct.unpack_from("<IIQI", state, 464) == (0x46505853, 2436, 0xE7, 2432)
    assert struct.unpack_from("<I", state, 2432) == (0x46505845,)
    assert state[:464] == area()[:464]
    assert state[512:2432] == area()[512:]


def test_tile_registers_in_use_do_not_go_into_a_frame() -> None:
    with pytest.raises(frame.NoFrameError, match="AMX"):
        frame.vector_state(area(11008, in_use=1 << 18))


def test_unused_tile_registers_are_left_out() -> None:
    assert frame.vector_state(area(11008)) == area(11008)[:2696]


STACK_VMA = Place(0x7000, 0x9000, "rw-p", 0, ("00:00", "0"), "")


@pytest.mark.parametrize(
    ("place", "lowest", "stack", "thread", "fits"),
    [
        (STACK_VMA, 0x7800, 0x8000, 0x8F00, True),
        (STACK_VMA, 0x6F00, 0x8000, 0x8F00, False),  # below the mapping
        (STACK_VMA, 0x7800, 0x8000, 0xF000, False),  # a coroutine's: the thread's own is elsewhere
        (STACK_VMA, 0x7800, 0x8000, 0x7100, False),  # the control block is below
        (STACK_VMA._replace(name="[stack]"), 0x7800, 0x8000, 0xF000, True),
        (STACK_VMA._replace(perms="r--p"), 0x7800, 0x8000, 0x8F00, False),
    ],
)
def test_room_on_a_stack(place: Place, lowest: int, stack: int, thread: int, fits: bool) -> None:
    assert has_room(place, lowest, stack, thread) == fits


@pytest.mark.parametrize(("ip", "aborts"), [(99, None), (100, 500), (119, 500), (120, None)])
def test_a_restartable_sequence_is_half_open(ip: int, aborts: int | None) -> None:
    section = RseqCs(start_ip=100, post_commit_offset=20, abort_ip=500)
    assert where_it_aborts(section, ip) == aborts
