"""The checks in a process of their own: an objective that ends its process is named as well."""

import logging
import multiprocessing
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from objectives.base import ObjectiveError
from objectives.devices import resolve_device
from objectives.functions.objective import FunctionObjective
from objectives.spec import ObjectiveSpec
from objectives.worker.messages import transferable
from search.common.errors import SearchError
from search.testing.checks import CHECKS
from search.testing.findings import Finding, examine, titles
from search.testing.functions import FUNCTION_CHECKS, FunctionSpecimen
from search.testing.specimen import Specimen


def examine_apart(make_spec: Callable[[], ObjectiveSpec], device: str) -> Iterator[Finding]:
    """Run every check in a child of this process. Raises ObjectiveError when the objective cannot be made.

    `make_spec` is called there, since it may import the objective: its threads would not survive in a forked process.
    Its SearchError is raised here.
    """
    ours, theirs = multiprocessing.Pipe(duplex=False)
    # Forked, because the imports take seconds. Nothing has started a thread or touched a GPU yet.
    process = multiprocessing.get_context("fork").Process(target=_examine, args=(theirs, make_spec, device))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        process.start()
    theirs.close()
    try:
        with closing(ours):
            yield from _findings(ours, process)
    finally:
        process.kill()
        process.join()


def _examine(connection: Connection, make_spec: Callable[[], ObjectiveSpec], device: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C as well, and ends this process
    logging.getLogger("torch").setLevel(logging.CRITICAL)  # a finding says what it logs
    try:
        specimen, checks = _specimen(make_spec(), device)
        connection.send(titles(checks))
        for finding in examine(specimen, checks):
            connection.send(finding)
    except ObjectiveError as error:
        connection.send(transferable(error))
    except SearchError as error:
        connection.send(error)


def _specimen(spec: ObjectiveSpec, device: str) -> tuple[Any, Sequence[Callable[[Any], str | None]]]:
    objective = spec.load()
    if isinstance(objective, FunctionObjective):
        return FunctionSpecimen(objective, device), FUNCTION_CHECKS
    return Specimen.of(spec, resolve_device(device, 0)), CHECKS


def _findings(connection: Connection, process: BaseProcess) -> Iterator[Finding]:
    expected = deque(["The objective is made"])
    while expected:
        title = expected.popleft()
        try:
            message = connection.recv()
        except EOFError:
            advice = "A search would lose its worker; raise an exception instead"
            yield Finding(title, wrong=f"the objective ended its process, which {_describe_end(process)}. {advice}")
            return
        if isinstance(message, ObjectiveError | SearchError):
            raise message
        if isinstance(message, Finding):
            yield message
        else:
            expected.extend(message)


def _describe_end(process: BaseProcess) -> str:
    process.join()
    status = process.exitcode or 0
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
