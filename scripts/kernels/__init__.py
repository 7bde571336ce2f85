"""Run the tests that meet the kernel on other real kernels, and write down what was seen.

``python -m scripts.kernels --kernel 6.1 --host``, or ``make kernels``. Debian's kernels are booted in QEMU
under software emulation, around the files of this machine: the same Python, the same virtual environment,
the same checkout. A guest has no disk, so nothing it does stays behind but its results.
"""
