import pytest

from anchor_heads.cli import main


@pytest.fixture
def command(capsys):
    """Runs a command in this process and returns its exit code, stdout and stderr."""

    def run(*command_line):
        try:
            code = main.main([str(x) for x in command_line])
        except SystemExit as error:  # of argparse
            code = error.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
