"""Linux itself: real system calls, owned descriptors, what ``/proc`` says, and what works here."""
