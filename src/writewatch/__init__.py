"""Know which memory was written."""
