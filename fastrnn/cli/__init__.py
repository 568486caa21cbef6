"""The command line, ``python -m fastrnn``: one file a command, nothing that a layer needs."""
