"""Linux as its headers spell it: constants, structures, request numbers. No behaviour, no system calls."""
