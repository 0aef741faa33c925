"""A worker process: `python -m objectives.worker FD`. The coordinator has the other end of the socket FD."""

import os
import sys
import time
from multiprocessing.connection import Connection

from objectives.base import ObjectiveError
from objectives.devices import BrokenDeviceError
from objectives.functions.output import FileOutput
from objectives.worker.lifeline import exit_with_parent
from objectives.worker.messages import WorkerSettings, transferable
from objectives.worker.worker import Worker, exit_broken


def serve(connection: Connection) -> None:
    """Answer commands until the coordinator closes the connection."""
    settings: WorkerSettings = connection.recv()
    time.sleep(settings.delay_s)
    try:
        worker = Worker(settings, make_output=FileOutput)
        connection.send(worker.select_device())
    except ObjectiveError as error:
        connection.send(transferable(error))
        return
    while True:
        try:
            command, *arguments = connection.recv()
        except EOFError:
            return
        connection.send(worker.do(command, *arguments))


if __name__ == "__main__":
    exit_with_parent()
    connection = Connection(int(sys.argv[1]))
    # A child that the objective forks must not keep the socket open: its end tells the coordinator of a dead worker.
    os.register_at_fork(after_in_child=connection.close)
    try:
        serve(connection)
    except BrokenDeviceError as error:
        exit_broken(error)
    os._exit(0)  # skips the interpreter's clean-up of torch, which takes a second while the coordinator waits
