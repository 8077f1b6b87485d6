"""The commands: ``anchor-heads COMMAND``, one file each."""

from anchor_heads.cli.errors import silence_warnings

# At import, since processes that a command starts import this package and then run a function.
silence_warnings()
