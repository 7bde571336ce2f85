"""Another process's memory: which of its pages it wrote, epoch by epoch."""
