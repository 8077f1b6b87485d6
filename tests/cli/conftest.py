import cv2
import numpy as np
import pytest
from tiny_run import loggers_as_before

from anchor_heads.cli import main


@pytest.fixture
def command(capsys):
    """Runs a command in this process and returns its exit code, stdout and stderr."""

    def run(*command_line):
        with loggers_as_before():
            try:
                code = main.main([str(x) for x in command_line])
            except SystemExit as error:  # of argparse
                code = error.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def write_video():
    """Writes a video whose frames become lighter by 20 each."""

    def write(path, num_frames=3, fps=10.0, size=(64, 48)):
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, size)
        assert writer.isOpened()
        for i in range(num_frames):
            writer.write(np.full((size[1], size[0], 3), 20 * i, np.uint8))
        writer.release()
        return str(path)

    return write
