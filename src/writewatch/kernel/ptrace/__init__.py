"""Other processes: stopping one of their threads for a moment, so that it makes a userfaultfd for us."""
