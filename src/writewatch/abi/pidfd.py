"""``include/uapi/linux/pidfd.h``, and of ``linux/kcmp.h`` what tells a shared mm, file or file table."""

from __future__ import annotations

import os
from typing import Final

PIDFD_NONBLOCK: Final = os.O_NONBLOCK  # since v5.10
PIDFD_THREAD: Final = os.O_EXCL  # since v6.9: a thread that is no group leader

KCMP_FILE: Final = 0
KCMP_VM: Final = 1
KCMP_FILES: Final = 2
