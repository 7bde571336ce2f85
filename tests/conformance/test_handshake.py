"""Sections 1.1 to 1.4: getting a descriptor and the UFFDIO_API handshake."""

from __future__ import annotations

import errno
import os
import select

import pytest

from tests.conformance.actions import ASYNC, DEFAULT_FLAGS, MISSING, Context, Place, raises
from tests.conformance.world import Need
from writewatch.abi import userfaultfd as uf

KNOWN = 0x1FFFF


def _api(place: Place, context: Context, api: int, features: int) -> uf.UffdioApi:
    argument = uf.UffdioApi(api, features, 0x1234)
    place.calls.uffdio(context.fd, uf.UFFDIO_API, argument)
    return argument


@pytest.mark.parametrize("flag", [1 << 1, 1 << 4, 1 << 20, 1 << 30])
def test_unknown_syscall_flag_is_einval(place: Place, flag: int) -> None:
    with raises(errno.EINVAL):
        place.calls.userfaultfd(DEFAULT_FLAGS | flag)


def test_handshake_reports_everything_the_kernel_has(place: Place) -> None:
    argument = _api(place, place.open(), uf.UFFD_API, 0)
    assert argument.features & KNOWN == KNOWN
    assert argument.ioctls == 1 << 63 | 0b11
    assert argument.api == uf.UFFD_API


def test_handshake_answer_does_not_depend_on_what_was_asked(place: Place) -> None:
    asked_nothing = _api(place, place.open(), uf.UFFD_API, 0)
    asked_async = _api(place, place.open(), uf.UFFD_API, ASYNC)
    assert asked_nothing.features == asked_async.features


def test_wrong_protocol_number_is_einval_and_zeroes_the_structure(place: Place) -> None:
    context = place.open()
    argument = uf.UffdioApi(0xAB, 0, 0x1234)
    with raises(errno.EINVAL):
        place.calls.uffdio(context.fd, uf.UFFDIO_API, argument)
    assert bytes(argument) == bytes(24)


@pytest.mark.parametrize("bit", [20, 40, 63])
def test_unknown_feature_is_einval_zeroed_and_leaves_the_context_usable(place: Place, bit: int) -> None:
    context = place.open()
    argument = uf.UffdioApi(uf.UFFD_API, 1 << bit, 0)
    with raises(errno.EINVAL):
        place.calls.uffdio(context.fd, uf.UFFDIO_API, argument)
    assert bytes(argument) == bytes(24)
    assert _api(place, context, uf.UFFD_API, ASYNC).features & ASYNC


@pytest.mark.parametrize("first", [0, ASYNC])
def test_second_handshake_is_einval_and_zeroed(place: Place, first: int) -> None:
    context = place.context(first)
    argument = uf.UffdioApi(uf.UFFD_API, 1, 0)
    with raises(errno.EINVAL):
        place.calls.uffdio(context.fd, uf.UFFDIO_API, argument)
    assert bytes(argument) == bytes(24)


def test_any_other_ioctl_before_the_handshake_is_einval(place: Place) -> None:
    context, area = place.open(), place.map(1)
    with raises(errno.EINVAL):
        context.register(area, MISSING)


def test_read_before_the_handshake_is_einval_and_poll_says_error(place: Place) -> None:
    context = place.open()
    with raises(errno.EINVAL):
        place.calls.read_messages(context.fd, 1)
    assert place.calls.poll(context.fd, 0) & select.POLLERR


def test_enabled_features_are_in_fdinfo_with_the_internal_bit(place: Place) -> None:
    context = place.context(ASYNC)
    implied = uf.UFFD_FEATURE_WP_UNPOPULATED
    assert place.world.uffd_features(context.fd) == 1 << 31 | ASYNC | implied


def test_descriptor_from_the_device(place: Place) -> None:
    place.world.needs(Need.DEVICE)
    context = Context(place, place.calls.userfaultfd_from_device(os.O_CLOEXEC | os.O_NONBLOCK))
    assert _api(place, context, uf.UFFD_API, 0).features & KNOWN == KNOWN


def test_wrong_flags_to_the_device_are_einval(place: Place) -> None:
    place.world.needs(Need.DEVICE)
    with raises(errno.EINVAL):
        place.calls.userfaultfd_from_device(1 << 20)


def test_a_process_may_have_many_contexts(place: Place) -> None:
    descriptors = {place.context(ASYNC).fd for _ in range(20)}
    assert len(descriptors) == 20
