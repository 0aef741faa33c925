"""The process before a command runs: where modules come from, how texts are encoded, what warnings do.

Imports only what Python itself has loaded. A module in the current folder could hide anything else.
"""

import locale
import os
import sys
import warnings
from pathlib import Path


def put_current_folder_last() -> None:
    """Import from the current folder only what is found nowhere else.

    `python -m search` begins its path with that folder. A file `random.py` or `objectives.py` in it would hide the
    module of that name from everything. The installed command `search` leaves that folder out, and finds no objective.
    """
    if sys.flags.safe_path:
        return
    try:
        folder = os.getcwd()
    except OSError:  # it was removed
        return
    if sys.path[:1] in ([""], [folder]):
        del sys.path[0]
    home = str(Path(__file__).parents[2])  # of the packages `search` and `objectives`
    if home not in sys.path:  # a checkout: another version may be installed
        sys.path.insert(0, home)
    if folder not in sys.path:
        sys.path.append(folder)


def use_utf8() -> None:
    """Begin again in Python's UTF-8 mode if the locale has another encoding.

    Otherwise files of this program and of its libraries would depend on the locale, and some names could not be used
    at all. The output keeps the encoding of the terminal.
    """
    encodings = sys.getfilesystemencoding(), locale.getencoding()
    began_again = os.environ.get("PYTHONUTF8") == "1"
    if began_again or not sys.executable or all(name.lower().replace("-", "") == "utf8" for name in encodings):
        return
    if sys.stdout is not None:
        os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
    os.environ["PYTHONUTF8"] = "1"  # of workers, too
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def tame_warnings() -> None:
    """Hide warnings unless the user asked for them, and never let one become an error.

    `PYTHONWARNINGS=error` is meant for the user's own code. Here it would turn any remark of a library into a failure.
    """
    asked = [option for option in sys.warnoptions if not _makes_errors(option)]
    if not asked:
        warnings.simplefilter("ignore")
    elif asked != sys.warnoptions:
        warnings.filters[:] = [entry for entry in warnings.filters if entry[0] != "error"]  # type: ignore[index]
    sys.warnoptions[:] = asked
    if variable := os.environ.get("PYTHONWARNINGS"):  # workers and servers inherit it
        os.environ["PYTHONWARNINGS"] = ",".join(part for part in variable.split(",") if not _makes_errors(part))


def _makes_errors(option: str) -> bool:
    action = option.partition(":")[0].strip()
    return bool(action) and "error".startswith(action)  # Python accepts abbreviations
