"""The data and the machine of a study, in words. For the start of a search and for the report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from search.common.text import one_line

LISTED_CLASSES = 6  # as many fit on a line with their counts
NAME_CHARACTERS = 24
SOURCE_CHARACTERS = 70
EQUAL_RATIO = 1.25  # classes whose sizes differ by less are called equal


def describe_dataset(info: Mapping[str, Any]) -> list[str]:
    """Describe a dataset by short lines. `info` is what the objective's `dataset_info` gives."""
    if not info:
        return []
    name, source = (one_line(str(info.get(key, "")), limit=SOURCE_CHARACTERS) for key in ("name", "source"))
    classes = _classes(info.get("classes", {}))
    if classes and info.get("n_test"):
        classes += " (without test images)"
    facts = [classes, _shape(info.get("shape", ()))]
    lines = [f"data: {', '.join(filter(None, (name, *facts)))}"]
    parts = {"training": "n_train", "validation": "n_validation", "the test": "n_test"}
    splits = [f"{info[key]:,} for {part}" for part, key in parts.items() if info.get(key)]
    origin = [f"from {source}"] if source else []
    images = f"images: {'; '.join([', '.join(splits), *origin])}" if splits else ""
    notes = [images, _shrunk(info), str(info.get("left_out") or "")]
    return lines + [note for note in notes if note]


def describe_workers(workers: Sequence[tuple[str, str]]) -> str:
    """Describe workers, each given by its device and the name of that: `16 workers on 2 x NVIDIA H100`."""
    texts = []
    for name, count in Counter(name for _, name in workers if name).most_common():
        devices = len({device for device, other in workers if other == name})
        where = one_line(name, limit=SOURCE_CHARACTERS) if devices == 1 else f"{devices} x {one_line(name)}"
        texts.append(f"{count} worker{'s' if count > 1 else ''} on {where}")
    return ", ".join(texts)


def _classes(counts: Mapping[str, int]) -> str:
    if not counts:
        return ""
    ranked = sorted(counts.items(), key=lambda item: (item[1], item[0]))
    (least_name, least), (most_name, most) = ranked[0], ranked[-1]
    if most <= EQUAL_RATIO * least:
        return f"{len(counts)} classes of {least}" + (f" to {most}" if most != least else "") + " images"
    if len(counts) <= LISTED_CLASSES:
        return f"{len(counts)} classes: " + ", ".join(f"{_name(name)} {count}" for name, count in ranked)
    return f"{len(counts)} classes of {least} ({_name(least_name)}) to {most} ({_name(most_name)}) images"


def _name(name: str) -> str:
    return one_line(name, limit=NAME_CHARACTERS)


def _shape(shape: Sequence[int]) -> str:
    if len(shape) != 3:
        return ""
    channels, height, width = shape
    return f"{width}x{height} pixels, {'grey' if channels == 1 else 'colour'}"


def _shrunk(info: Mapping[str, Any]) -> str:
    """Say that images were made smaller, which may remove what tells the classes apart."""
    original, shape = info.get("original_size"), info.get("shape", ())
    if not original or len(shape) != 3 or original[0] * original[1] <= shape[1] * shape[2]:
        return ""
    return f"images of about {original[1]}x{original[0]} pixels are shrunk to {shape[2]}x{shape[1]}"
