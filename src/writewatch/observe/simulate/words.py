"""The vocabulary of scripts: a word for each flag, as Linux spells it, in small letters and without its prefix."""

from __future__ import annotations

from typing import Final

from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf
from writewatch.abi.pagemap import CATEGORIES

PROTECTIONS: Final = {
    "none": mman.PROT_NONE,
    "read": mman.PROT_READ,
    "write": mman.PROT_READ | mman.PROT_WRITE,
    "exec": mman.PROT_EXEC,
}

ADVICE: Final = {
    name.removeprefix("MADV_").lower(): value
    for name, value in vars(mman).items()
    if name.startswith("MADV_") and name not in {"MADV_MERGEABLE", "MADV_UNMERGEABLE"}
}

FEATURES: Final = {feature.name.lower(): feature.bit for feature in uf.FEATURES}

REGISTER_MODES: Final = {
    "wp": uf.UFFDIO_REGISTER_MODE_WP,
    "missing": uf.UFFDIO_REGISTER_MODE_MISSING,
    "minor": uf.UFFDIO_REGISTER_MODE_MINOR,
}

#: COPY and CONTINUE; their flags have the same values.
FILL_MODES: Final = {"wp": uf.UFFDIO_COPY_MODE_WP, "dontwake": uf.UFFDIO_COPY_MODE_DONTWAKE}
#: ZEROPAGE and POISON.
DONTWAKE: Final = {"dontwake": uf.UFFDIO_ZEROPAGE_MODE_DONTWAKE}
MOVE_MODES: Final = {
    "dontwake": uf.UFFDIO_MOVE_MODE_DONTWAKE,
    "allow_src_holes": uf.UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES,
}

CATEGORY_WORDS: Final = {name.lower(): bit for bit, name in CATEGORIES.items() if name != "ACCESSED"}
ALL_CATEGORIES: Final = sum(CATEGORY_WORDS.values())

EVENTS: Final = {
    uf.UFFD_EVENT_PAGEFAULT: "pagefault",
    uf.UFFD_EVENT_FORK: "fork",
    uf.UFFD_EVENT_REMAP: "remap",
    uf.UFFD_EVENT_REMOVE: "remove",
    uf.UFFD_EVENT_UNMAP: "unmap",
}

UNITS: Final = {"KiB": 1 << 10, "MiB": 1 << 20}
