"""`search.run`: the command `run` for Python programs and notebooks."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import click

from objectives.base import Objective, ObjectiveError
from objectives.spec import importing
from search.cli.exits import storage_failure
from search.cli.options import SETTINGS, plan_from
from search.cli.terminal import importing as importing_libraries
from search.common.config import DEFAULT_OBJECTIVE, Config
from search.common.errors import SearchError
from search.common.signals import Interrupted, Interruption
from search.python.notebook import NotebookDisplay, import_progress_bars, in_notebook
from search.python.objects import spec_of, target_of
from search.python.settings import Settings, call_text, described, parse, signature

if TYPE_CHECKING:
    from search.coordinator.progress import Display
    from search.python.result import Result

BUILT_IN = "objectives.images.objective:ImageClassification"  # where the class of the default objective is defined
STARTS = "the search starts: it imports its libraries and reads its data"
LARGE_BYTES = 100_000_000
STOPPED = "Stopped. Nothing is lost: run the same call again to continue"


def run(objective: Objective | Callable[..., Any] | str | None = None, **settings: Unpack[Settings]) -> Result:
    """Run a search, test its winner once, and register it. The same call again continues.

    objective: a function of an Optuna trial, a class or an object of the contract in docs/objectives.md, or a text as
    after `--objective`. Without one, images are classified.

    Raises SearchError for what the user can correct, KeyboardInterrupt after Ctrl-C or a notebook's stop button.

    Settings are the flags of the command. Variables such as SEARCH_TRIALS and the file `config` count as for it.
    """
    try:
        return _run(objective, dict(settings))
    except _Failure as failure:
        error = failure.error
    except Interrupted as interrupted:
        error = _after(interrupted.number)
    raise error from None


run.__signature__ = signature(Objective | Callable[..., Any] | str | None)  # type: ignore[attr-defined]
run.__doc__ = f"{(run.__doc__ or '').rstrip()}\n\n{described()}\n"


class _Failure(Exception):
    """Carries the error to the frame of `run`, which is all that its traceback then has of this project."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error.with_traceback(None)


@contextmanager
def _explained() -> Iterator[None]:
    """Raise _Failure for what the user can correct, with the message that the command would print."""
    try:
        yield
    except SearchError as error:
        error.args = (_for_programs(str(error)),)
        raise _Failure(error) from None
    except ObjectiveError as error:
        raise _Failure(SearchError(_for_programs(str(error)))) from None
    except Exception as error:
        if (message := storage_failure(error)) is None:
            raise
        raise _Failure(SearchError(_for_programs(message))) from None


def _for_programs(message: str) -> str:
    """Name the call where a message tells the user to repeat the command, or to add a name to it."""
    message = re.sub(r"\badd --study (\S+) to what you typed", r'add study="\1" to the call', message)
    again = re.sub(r"\b(type|run) the same command again", "run the same call again", message)
    return re.sub(r"\b(Type|Run) the same command again", "Run the same call again", again)


def _run(objective: Any, settings: dict[str, Any]) -> Result:
    with _explained(), Interruption(ends_process=False) as interruption:  # also during the imports, which take seconds
        if (target := importing.get()) is not None:
            place, advice = target.rpartition(":")[0], 'put the call below: if __name__ == "__main__":'
            raise _Failure(ObjectiveError(f"{place} calls search.run while it is imported; {advice}"))
        if not isinstance(objective, str | None) and target_of(objective) == BUILT_IN:
            objective = DEFAULT_OBJECTIVE
        ctx = parse(settings, objective if isinstance(objective, str) else None)
        config = Config(**{name: ctx.params[name] for name in SETTINGS})
        is_shown_here = not config.quiet and config.log_format == "text" and in_notebook()
        display = NotebookDisplay() if is_shown_here else None
        try:
            return _search(ctx, config, objective, settings, display, interruption)
        except BaseException as error:
            if display is not None:
                display.close(STOPPED if isinstance(error, Interrupted) else "the search ended with an error")
            raise


def _search(
    ctx: click.Context,
    config: Config,
    objective: Any,
    settings: dict[str, Any],
    notebook: NotebookDisplay | None,
    interruption: Interruption,
) -> Result:
    is_silent = config.quiet or config.log_format == "json"
    with importing_libraries(STARTS, silent=is_silent) if notebook is None else notebook.busy("importing libraries"):
        import_progress_bars()
        from search.cli.output import choose_display, print_result
        from search.commands.run import run as search
        from search.python.process import borrowed_process
        from search.python.result import Result

    interruption.check()
    display: Display = notebook or choose_display(quiet=config.quiet, log_format=config.log_format)
    with borrowed_process(trains=config.engine == "inline"):
        given = None if isinstance(objective, str | None) else spec_of(objective)
        config = config if given is None else replace(config, objective=given.target)
        if given is not None and (size := len(given.pickled or b"")) > LARGE_BYTES:
            advice = "reading it from a file inside the objective takes less memory"
            display.notice(f"each worker gets {size / 1e6:.0f} MB of data with the objective; {advice}")
        plan = plan_from(ctx, config, display, given=given)
        plan = replace(plan, command=call_text(given.target if given else repr(config.objective), settings))
        interruption.check()
        ended = search(plan, display)
    result = Result(ended.study, plan.config, undelivered=ended.undelivered)
    if notebook is not None:
        notebook.close(("nothing was left to do: " if ended.was_complete else "") + result.headline)
    elif not config.quiet:
        print_result(ended, plan.config, in_program=True)
    return result


def _after(number: int) -> BaseException:
    """Return the exception for a signal: KeyboardInterrupt for Ctrl-C. Another signal takes its usual effect first."""
    if number == signal.SIGINT:
        return KeyboardInterrupt(STOPPED)
    signal.raise_signal(number)
    return SystemExit(128 + number)
