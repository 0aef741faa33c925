"""Leaves the user's process as it was: a search changes what a command may change, and a notebook has other plans."""

import logging
import random
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np

from search.common.errors import UsageError
from search.common.system import environment, thread_waiting, usable_cores
from search.tracking.store import unchanged_process

THREADS = ("delivery", "preload")
"""Names of the threads of a search. The command does not wait for them: they end with its process."""

THREAD_END_S = 60.0

_one_search = threading.Lock()


@contextmanager
def borrowed_process(*, trains: bool) -> Iterator[None]:
    """Undo at the end what a search changes in this process: variables, warnings, log levels, paths, torch's threads.

    If it `trains` here, also random states, and how torch computes with denormal numbers.

    Raises UsageError if another search runs here: both would restore what the other has changed.
    """
    if not _one_search.acquire(blocking=False):
        advice = "wait for its end, or run the other one in a process of its own"
        raise UsageError(f"a search runs in this process already; {advice}")
    try:
        import optuna

        path, level = list(sys.path), optuna.logging.get_verbosity()
        psycopg = logging.getLogger("psycopg")
        psycopg_level = psycopg.level
        numbers = _unchanged_numbers() if trains else nullcontext()
        with (
            unchanged_process(),
            environment(thread_waiting()),
            warnings.catch_warnings(action="ignore"),
            _unchanged_torch(),
            numbers,
        ):
            try:
                with _ended_threads():
                    yield
            finally:
                sys.path[:] = path
                optuna.logging.set_verbosity(level)
                psycopg.setLevel(psycopg_level)
    finally:
        _one_search.release()


@contextmanager
def _ended_threads() -> Iterator[None]:
    """Wait at the end for the threads of a search that was stopped. They may be within a request or an import."""
    before = set(threading.enumerate())
    try:
        yield
    finally:
        for thread in set(threading.enumerate()) - before:
            if thread.name in THREADS:
                thread.join(THREAD_END_S)


@contextmanager
def _unchanged_torch() -> Iterator[None]:
    """Restore torch's number of threads and its random state. If torch was not loaded before, it gets all cores."""
    before = sys.modules.get("torch")
    threads = before.get_num_threads() if before else usable_cores()
    state = before.get_rng_state() if before else None
    try:
        yield
    finally:
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(threads)
            if state is not None:
                torch.set_rng_state(state)


@contextmanager
def _unchanged_numbers() -> Iterator[None]:
    """Restore what a worker in this process changes besides: other random states, and denormal numbers."""
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_flush_denormal(False)
