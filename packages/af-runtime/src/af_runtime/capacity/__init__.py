"""How many sessions this machine holds: measured by `bench`, kept in a file, read by `serve`."""
