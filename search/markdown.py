"""The winner in Markdown: the note on the parent run, and the model card that a registered version carries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from search.pages import WINNER, readable
from search.records import StudyRecord
from search.summary import Confirmation, Summary, counted, plus_minus, span

MAX_CLASSES = 30
"""A larger confusion matrix is no table for people."""

NETWORKS = {
    "trial": "the search's own training of this setting, which was chosen for its validation figure",
    "confirm": "one of the trainings on fresh seeds, not chosen for its own figure",
    "refit": "a fresh seed, trained on the training and validation splits together, so without a validation figure",
}
"""By `Summary.network`, what was registered."""


def note(study: StudyRecord, summary: Summary) -> str:
    """The summary, shown at the top of the parent run and of the winner's."""
    who = f"{WINNER} **Winner of `{study.name}`: trial {summary.number}**"
    parts = [f"{who}, `{summary.label}`, {study.metric} {summary.score:.4f}"]
    if (baseline := study.baseline) is not None:
        parts.append(f"It is the baseline {baseline}: nothing that was sampled is clearly better.")
    parts += _test(study, summary)
    if summary.refit:
        parts.append(f"That network was trained anew on all but the test split: {_refit(summary.refit)}.")
    if summary.confirmation is not None:
        parts.append(_confirmation(study, summary.confirmation))
    if summary.gains:
        parts.append(_gains(summary))
    if summary.model:
        alias = f", alias `{summary.model['alias']}`" if summary.model["alias"] else ""
        page = f"#/models/{summary.model['name']}/versions/{summary.model['version']}"
        parts.append(f"Registered as [`{summary.model['uri']}`]({page}){alias}.")
    parts += [text for text in (summary.note, summary.standing) if text]
    best = ([f"#{t.number:03d}", t.label, f"{t.value:.4f}"] for t in study.ranked()[:10])
    parts.append(table(["trial", "setting", study.metric], best))
    return "\n\n".join(parts)


def model_card(study: StudyRecord, summary: Summary, metadata: Mapping[str, Any], uri: str) -> str:
    """What a registered version is, how it came about, how good it is, what it is not, how to load it."""
    shape = ", ".join(map(str, metadata["shape"]))
    classes = metadata.get("classes")
    what = f"Takes inputs of shape ({shape})." if classes is None else (
        f"Classifies images of shape ({shape}), pixels in [0, 1], into {len(classes)} classes: {_listed(classes)}."
    )  # fmt: skip
    mistakes = () if classes is None else ("## Mistakes on the test split", _confusion(summary.confusion, classes))
    parts = [
        f"# `{summary.label}`",
        f"{what} Winner of study `{study.name}` (trial {summary.number} of {len(study.trials)}).",
        "## Figures", _figures(study, summary),
        "## Training", _training(study, summary, metadata),
        *mistakes,
        "## Limits", _limits(study, summary, metadata),
        "## Loading", _loading(metadata, uri),
    ]  # fmt: skip
    return "\n\n".join(parts)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars inside cells do not end them."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _test(study: StudyRecord, summary: Summary) -> list[str]:
    if not (test := summary.test):
        return []
    interval = f"95% interval {test['low']:.2%} to {test['high']:.2%}"
    return [f"Test accuracy **{test['accuracy']:.2%}** ({interval}, n = {int(test['n']):,}), {study.tested}."]


def _refit(refit: Mapping[str, Any]) -> str:
    return f"{refit['images']:,} images, {refit['epochs']} epochs"


def _confirmation(study: StudyRecord, found: Confirmation) -> str:
    rows = [
        [
            f"#{each.number:03d}", each.label, "failed" if each.mean is None else f"{each.mean:.4f}",
            span(found.interval(each)), "" if each.spread is None else f"{each.spread:.4f}",
            ", ".join(f"{value:.4f}" for value in each.values), f"{each.searched:.4f}", study.fate(each),
        ]
        for each in found.candidates
    ]  # fmt: skip
    header = ["trial", "setting", "mean", "95% interval", "spread", "values", "the search saw", ""]
    seeds, trust = counted(found.seeds, "fresh seed"), found.trust(study.considered)
    return f"The best trials were trained again on {seeds}; {trust}.\n\n{table(header, rows)}"


def _gains(summary: Summary) -> str:
    rows = [
        [gain.baseline, f"{gain.value:.4f}", gain.known_from, f"{gain.gain:+.4f}{plus_minus(gain.half)}", gain.doubt]
        for gain in summary.gains
    ]
    found = table(["baseline", "value", "known from", "gain of the winner", ""], rows)
    return f"Gains: {summary.gains_rest_on}.\n\n{found}" if summary.gains_rest_on else found


def _figures(study: StudyRecord, summary: Summary) -> str:
    rows = []
    if test := summary.test:
        interval = f"{test['low']:.2%} to {test['high']:.2%}"
        n = f"{int(test['n']):,} images, {study.tested}"
        rows.append(["test accuracy", f"{test['accuracy']:.2%}", interval, n])
    if (confirmed := summary.confirmed) is not None and confirmed.mean is not None:
        what = f"mean of {counted(len(confirmed.values), 'training')} of this setting on fresh seeds, "
        what += "one of them this network" if summary.network == "confirm" else "not of this network"
        assert summary.confirmation is not None, "a confirmed winner has one"
        rows.append([study.metric, f"{confirmed.mean:.4f}", span(summary.confirmation.interval(confirmed)), what])
    own = "this network" if summary.network == "trial" else "another training of this setting"
    seen = f"{own}; too good on average, because it was chosen for it"
    rows.append([f"{study.metric}, as the search saw it", f"{summary.value:.4f}", "", seen])
    for gain in summary.gains:
        over = f"{study.metric}; the baseline's is {gain.known_from}" + (f"; {gain.doubt}" if gain.doubt else "")
        rows.append([f"gain over {gain.baseline}", f"{gain.gain:+.4f}", plus_minus(gain.half).strip(), over])
    return table(["figure", "value", "95% interval", "measured on"], rows)


def _training(study: StudyRecord, summary: Summary, metadata: Mapping[str, Any]) -> str:
    params = ", ".join(f"{name} {readable(value, digits=3)}" for name, value in summary.params.items())
    origin = study.provenance
    how = NETWORKS[summary.network] + (f": {_refit(summary.refit)}" if summary.refit else "")
    data = (
        "; ".join(f"{name} `{found}`" for name, found in metadata.get("data", {}).items()) or "known to its objective"
    )
    if "classes" in metadata:
        data = f"`{metadata['dataset']}`, digest `{metadata['dataset_digest']}`; "
        data += f"{metadata['n_train']:,} images for training, {metadata['n_validation']:,} for validation"
    tested = "the test split had no part in it" if summary.test else "there is no test split"
    lines = [
        f"- Data: {data}.",
        f"- Setting: {params}.",
        f"- Network: {how}.",
        f"- Chosen among {len(study.trials)} trials by `{study.metric}`; {tested}.",
        f"- Command: `{origin.get('command', '')}`, seed {origin.get('seed', '')}; "
        + ", ".join(f"{name} {found}" for name, found in origin.get("versions", {}).items()) + ".",
    ]  # fmt: skip
    return "\n".join(lines)


def _confusion(confusion: Sequence[Sequence[int]] | None, classes: Sequence[str]) -> str:
    if confusion is None:
        return f"More than {MAX_CLASSES} classes: see the confusion matrix of the run."
    rows = [
        [f"**{name}**", *(str(count) if count else "" for count in counts)]
        for name, counts in zip(classes, confusion, strict=True)
    ]
    return "Rows are true classes, columns what the network said.\n\n" + table(["", *classes], rows)


def _limits(study: StudyRecord, summary: Summary, metadata: Mapping[str, Any]) -> str:
    if "classes" in metadata:
        lines = [
            f"- Its figures hold for images like those of `{metadata['dataset']}`, framed alike; else it is untested.",
            "- It knows no class but these: whatever it is shown, it names one of them.",
            "- Its probabilities were not calibrated.",
        ]
    else:
        lines = ["- Its figures hold for inputs like those it was measured on; elsewhere it is untested."]
    if summary.confirmed is None:
        lines.append(f"- Its {study.metric} was not confirmed on fresh seeds.")
    elif summary.gains and not any(gain.half is not None for gain in summary.gains) and summary.gains_rest_on:
        lines.append(f"- Its gains over the baselines: {summary.gains_rest_on}.")
    lines += [f"- {text}." for text in (summary.note,) if text]
    return "\n".join(lines)


def _loading(metadata: Mapping[str, Any], uri: str) -> str:
    shape = ", ".join(map(str, metadata["shape"]))
    if "classes" not in metadata:
        return (
            "```python\nimport mlflow, numpy as np\n\n"
            f'model = mlflow.pyfunc.load_model("{uri}")\n'
            f"outputs = model.predict(np.zeros((2, {shape}), dtype=np.float32))\n```"
        )
    return (
        "```python\nimport mlflow, numpy as np\n\n"
        f'model = mlflow.pyfunc.load_model("{uri}")\n'
        f"images = np.zeros((2, {shape}), dtype=np.float32)  # (n, c, h, w), pixels in [0, 1]\n"
        f"probabilities = model.predict(images)  # (n, {len(metadata['classes'])})\n```\n\n"
        f'Or, with this project: `search.load("{uri}").predict(images)`, which takes uint8 images as well.'
    )


def _listed(classes: Sequence[str], limit: int = 12) -> str:
    shown = ", ".join(classes[:limit])
    return shown + (f" and {len(classes) - limit} more" if len(classes) > limit else "")
