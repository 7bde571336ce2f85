"""Of ``include/uapi/linux/perf_event.h`` what page-fault sampling needs."""

from __future__ import annotations

import ctypes
from typing import Final

from writewatch.abi.ioctl import _IO, _IOW

PERF_TYPE_SOFTWARE: Final = 1
PERF_COUNT_SW_PAGE_FAULTS: Final = 2
PERF_COUNT_SW_PAGE_FAULTS_MIN: Final = 5

PERF_SAMPLE_IP: Final = 1 << 0
PERF_SAMPLE_TID: Final = 1 << 1
PERF_SAMPLE_TIME: Final = 1 << 2
PERF_SAMPLE_ADDR: Final = 1 << 3
PERF_SAMPLE_CALLCHAIN: Final = 1 << 5

PERF_RECORD_LOST: Final = 2
PERF_RECORD_SAMPLE: Final = 9

PERF_FLAG_FD_CLOEXEC: Final = 1 << 3

PERF_ATTR_DISABLED: Final = 1 << 0
PERF_ATTR_INHERIT: Final = 1 << 1
PERF_ATTR_EXCLUDE_KERNEL: Final = 1 << 5
PERF_ATTR_WATERMARK: Final = 1 << 14

PERF_EVENT_IOC_ENABLE: Final = _IO(ord("$"), 0)
PERF_EVENT_IOC_DISABLE: Final = _IO(ord("$"), 1)
PERF_EVENT_IOC_SET_OUTPUT: Final = _IO(ord("$"), 5)
PERF_EVENT_IOC_PERIOD: Final = _IOW(ord("$"), 4, 8)


class PerfEventAttr(ctypes.Structure):
    """``struct perf_event_attr`` up to PERF_ATTR_SIZE_VER5; the bit field is the one word ``flags``."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_watermark", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("config1", ctypes.c_uint64),
        ("config2", ctypes.c_uint64),
        ("branch_sample_type", ctypes.c_uint64),
        ("sample_regs_user", ctypes.c_uint64),
        ("sample_stack_user", ctypes.c_uint32),
        ("clockid", ctypes.c_int32),
        ("sample_regs_intr", ctypes.c_uint64),
        ("aux_watermark", ctypes.c_uint32),
        ("sample_max_stack", ctypes.c_uint16),
        ("reserved_2", ctypes.c_uint16),
    )
