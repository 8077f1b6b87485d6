"""The commands: ``anchor-heads COMMAND``, one file each."""
