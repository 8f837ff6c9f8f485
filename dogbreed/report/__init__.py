"""Reports of runs: a page to read, pages to compare, a table in the terminal. See `command`."""
