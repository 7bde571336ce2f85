"""Linux's write-protection by userfaultfd as an executable specification. Theory: ``README.md`` beside this file.

``ModelCalls`` serves ``writewatch.abi.calls.KernelCalls`` on simulated memory; ``explore`` visits every
interleaving of a small program on it.
"""
