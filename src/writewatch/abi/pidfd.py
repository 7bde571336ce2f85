"""``include/uapi/linux/pidfd.h``, and of ``linux/kcmp.h`` the one comparison that tells a shared mm."""

from __future__ import annotations

import os
from typing import Final

PIDFD_NONBLOCK: Final = os.O_NONBLOCK  # since v5.10
PIDFD_THREAD: Final = os.O_EXCL  # since v6.9: a thread that is no group leader

KCMP_VM: Final = 1
