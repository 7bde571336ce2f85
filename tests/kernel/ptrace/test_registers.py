"""Register sets, driven without a process: how a call is begun, and what is restored."""

from __future__ import annotations

import pytest

from writewatch.abi.ptrace import UserPtRegs, UserRegs
from writewatch.kernel.ptrace.registers import X8664, Aarch64, machine_of, signed

EINTR, ERESTARTSYS, ERESTARTNOHAND, ERESTARTNOINTR, RESTARTBLOCK = -4, -512, -514, -513, -516
EPOLL_WAIT, CONNECT, NANOSLEEP = 232, 42, 35


def unsigned(value: int) -> int:
    return value % (1 << 64)


def x86(**values: int) -> UserRegs:
    registers = UserRegs(
        rip=0x400002, rsp=0x7FF000, cs=0x33, ss=0x2B, eflags=0x302, orig_rax=unsigned(-1), rbx=7
    )
    for name, value in values.items():
        setattr(registers, name, unsigned(value))
    return registers


def test_machines_are_found_by_their_name() -> None:
    assert isinstance(machine_of("x86_64"), X8664)
    assert isinstance(machine_of("aarch64"), Aarch64)
    assert machine_of("riscv64") is None


def test_a_call_changes_what_it_needs_and_cannot_be_restarted() -> None:
    found = x86(orig_rax=NANOSLEEP, rax=RESTARTBLOCK)
    call = X8664().call(found, 0x500000, 323, 0x80801)
    assert (call.rip, call.rax, call.rdi) == (0x500000, 323, 0x80801)
    assert signed(call.orig_rax) == -1
    assert not call.eflags & 0x100, "the trap flag would raise SIGTRAP"
    assert (call.rsp, call.rbx) == (found.rsp, found.rbx)
    assert found.rip == 0x400002, "the registers that were found are kept"


@pytest.mark.parametrize("code", [ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, RESTARTBLOCK])
def test_a_restart_code_is_put_back_as_it_was(code: int) -> None:
    machine, found = X8664(), x86(orig_rax=NANOSLEEP, rax=code)
    assert bytes(machine.as_found(found, None)) == bytes(found)
    assert machine.site_of_call(found) == 0x400000


def test_eintr_of_a_call_that_may_be_repeated_is_hidden() -> None:
    restored = X8664().as_found(x86(orig_rax=EPOLL_WAIT, rax=EINTR), None)
    assert signed(restored.rax) == ERESTARTNOHAND
    assert restored.orig_rax == EPOLL_WAIT


@pytest.mark.parametrize("values", [{"orig_rax": CONNECT, "rax": EINTR}, {"orig_rax": -1, "rax": EINTR}])
def test_any_other_eintr_stays(values: dict[str, int]) -> None:
    found = x86(**values)
    assert bytes(X8664().as_found(found, None)) == bytes(found)
    assert bytes(X8664().before_the_call(found, None)) == bytes(found)


@pytest.mark.parametrize(
    ("number", "code"), [(NANOSLEEP, RESTARTBLOCK), (EPOLL_WAIT, EINTR), (0, ERESTARTSYS)]
)
def test_a_frame_makes_an_interrupted_call_anew(number: int, code: int) -> None:
    restored = X8664().before_the_call(x86(orig_rax=number, rax=code), None)
    assert (restored.rip, restored.rax) == (0x400000, number)


def test_a_thread_in_a_restartable_sequence_goes_on_where_it_aborts() -> None:
    machine, found = X8664(), x86()
    assert machine.as_found(found, 0x600000).rip == 0x600000
    assert machine.before_the_call(found, 0x600000).rip == 0x600000
    assert machine.site_of_call(found) is None


def test_code_of_another_word_size_is_seen() -> None:
    assert X8664().runs_foreign_code(x86(cs=0x23))
    assert not X8664().runs_foreign_code(x86())
    assert Aarch64().runs_foreign_code(UserPtRegs(pstate=0x10))


def test_results_have_a_sign() -> None:
    assert X8664().result(x86(rax=-24)) == -24
    arm = UserPtRegs()
    arm.regs[0] = unsigned(-24)
    assert Aarch64().result(arm) == -24


def test_a_call_of_aarch64_keeps_x7_and_the_stack() -> None:
    machine, found = Aarch64(), UserPtRegs(sp=0x7FF000, pc=0x400000)
    for number in range(31):
        found.regs[number] = 100 + number
    call = machine.call(found, 0x500000, machine.userfaultfd, 0x80801)
    assert (call.pc, call.regs[8], call.regs[0]) == (0x500000, 282, 0x80801)
    same = set(range(31)) - {0, 8}
    assert all(call.regs[number] == found.regs[number] for number in same)
    assert call.sp == found.sp


def test_aarch64_restores_the_restart_that_the_kernel_prepared() -> None:
    machine, found = Aarch64(), UserPtRegs(sp=0x7FF000, pc=0x400000)
    assert bytes(machine.as_found(found, None)) == bytes(found)
    assert machine.as_found(found, 0x600000).pc == 0x600000
    assert machine.site_of_call(found) == found.pc
