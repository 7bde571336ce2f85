"""What came of a step, in plain data that both sides can be compared by."""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["ok", "errno", "signal", "waits", "never returns", "not run"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one step ended, or that it has not.

    Attributes:
        kind: ``ok``; ``errno``; ``signal``, which ended the process; ``waits``, for a userfaultfd to be served or read;
            ``never returns``, and the process was ended for it; ``not run``, because its process has ended before.
        value: What the operation returned, the name of the errno or of the signal; None otherwise.
    """

    kind: Kind
    value: Any = None

    @classmethod
    def failed(cls, error: OSError) -> Outcome:
        """The outcome of a call that Linux refused."""
        return cls("errno", errno.errorcode.get(error.errno or 0, str(error.errno)))

    @classmethod
    def killed(cls, number: int) -> Outcome:
        """The outcome of an access that the processor answered with a signal."""
        return cls("signal", signal.Signals(number).name)

    @property
    def ends_process(self) -> bool:
        """Whether the process is gone."""
        return self.kind in {"signal", "never returns"}


#: What has ended since: number of the line that began it, and how.
Resumed: TypeAlias = list[tuple[int, Outcome]]
