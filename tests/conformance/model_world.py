"""``ModelWorld``: a process of ``writewatch.model``, which needs no kernel.

What it expects of ``writewatch.model.calls.ModelCalls`` beyond ``KernelCalls``:

* ``ModelCalls()`` boots a machine with one process: 4 KiB pages, 2 MiB huge pages, 64 of them reserved for hugetlbfs,
  swap, THP on request for anonymous memory and shmem, all privileges.
* ``spawn(method, *arguments)`` runs one call, or ``fork``, as a task and returns an object with ``settle() -> bool``
  (ended, or blocked on a userfaultfd), ``result()`` and ``thread_id``. Nothing runs behind its back: a
  task goes on inside the call that wakes it, or in ``settle``.
* ``fork() -> ModelCalls`` for the child, ``exit()``, ``execve()``, ``pid``, ``send_descriptor(fd, other) -> int``.
* ``regular_file(length, writable) -> int``, ``mlock(addr, length)``, ``vm_flags(addr)``, ``uffd_features(fd)``,
  ``touch(addresses, value)``.
* A load or store that gets a signal raises an exception with attributes ``signal``, ``address``, ``code``.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from tests.conformance.world import MemorySignal, Need, Task, Unavailable, World
