"""Presents an ensemble: its members with their weights, and its gain over the winner alone."""

from collections.abc import Callable

from search.study.summary import Ensemble, counted

Write = Callable[[float, float | None], str]


def members_text(ensemble: Ensemble) -> str:
    """Name the members and their weights, such as `trial 7 (2/3), trial 12 (1/3)`."""
    total = sum(member.picks for member in ensemble.members)
    return ", ".join(f"trial {member.number} ({member.picks}/{total})" for member in ensemble.members)


def gain_text(ensemble: Ensemble, write: Write) -> str:
    """Write the gain with its standard error; `write` formats a difference and its error."""
    return f"{write(ensemble.gain, ensemble.error)} (one standard error)"


def ensemble_text(ensemble: Ensemble | None, write: Write) -> str:
    """Describe an ensemble in one line; "" for None."""
    if ensemble is None:
        return ""
    weights = "" if ensemble.parameters is None else f"{ensemble.parameters:,.0f} weights in all; "
    gain = f"{gain_text(ensemble, write)} over the winner alone"
    judged = f"each half of {ensemble.n_images:,} validation images judges what was chosen on the other"
    chosen = f"{members_text(ensemble)}, chosen from {counted(ensemble.n_candidates, 'trial')}"
    return f"{chosen}; {weights}{gain}: {judged}"


def alone_text(ensemble: Ensemble, at_most: int, write: Write) -> str:
    """Say why the winner stays alone."""
    if ensemble.n_candidates < 2:
        return f"--ensemble {at_most}: no other trial has weights, so the winner stays alone"
    return f"--ensemble {at_most} brings {gain_text(ensemble, write)}, so the winner stays alone"
