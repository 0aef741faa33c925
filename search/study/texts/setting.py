"""The data and the machine of a study, in words. For the start of a search and for the report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from objectives.base import MAX_DUPLICATES, MAX_IMAGE_SIZE
from objectives.metrics import is_unequal, metric_of
from search.common.text import one_line

LISTED_CLASSES = 6  # as many fit on a line with their counts
NAME_CHARACTERS = 24
SOURCE_CHARACTERS = 70
EQUAL_RATIO = 1.25  # classes whose sizes differ by less are called equal
NAMED_DUPLICATES = 3
SPLITS = {"training": "n_train", "validation": "n_validation", "test": "n_test"}
"""Keys of `dataset_info` for the number of images of each split."""


class Row(NamedTuple):
    """A fact about the data."""

    name: str
    text: str


def describe_dataset(info: Mapping[str, Any]) -> list[Row]:
    """Describe a dataset by rows, the first of which names it. `info` is what the objective's `dataset_info` gives."""
    if not info:
        return []
    name, source = (one_line(str(info.get(key, "")), limit=SOURCE_CHARACTERS) for key in ("name", "source"))
    classes = _classes(info.get("classes", {}))
    if classes and info.get("n_test"):
        classes += " (without test images)"
    facts = [classes, _shape(info.get("shape", ()))]
    rows = [
        Row("data", ", ".join(filter(None, (name, *facts)))),
        *(Row(split, _split(info, split)) for split in SPLITS),
        Row("source", source),
        Row("size", _resized(info)),
        Row("duplicates", _duplicates(info.get("duplicates"))),
        Row("left out", str(info.get("left_out") or "")),
        *(Row("note", str(note)) for note in info.get("notes") or ()),
    ]
    return [row for row in rows if row.text]


def dataset_lines(info: Mapping[str, Any]) -> list[str]:
    """The rows of a dataset as lines for a terminal."""
    if not (rows := describe_dataset(info)):
        return []
    first, *others = rows
    width = max((len(row.name) for row in others), default=0)
    return [f"{first.name}: {first.text}", *(f"  {row.name:{width}}  {row.text}" for row in others)]


def unequal_classes(info: Mapping[str, Any], metric: str) -> str | None:
    """Say that accuracy hides small classes, if it is the study's metric and one class is much larger than another."""
    if metric_of(metric) != "accuracy":
        return None
    counts = {name: n for name, n in info.get("classes", {}).items() if n}
    if not is_unequal(counts.values()):
        return None
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    times = f"{counts[most] / counts[least]:.0f} times the images of {_name(least)!r}"
    return (
        f"class {_name(most)!r} has {times}, and accuracy hides mistakes on small classes: "
        "--metric balanced_accuracy counts all classes alike"
    )


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
    return f"{len(counts)} classes of {least} ({_name(least_name)!r}) to {most} ({_name(most_name)!r}) images"


def _name(name: str) -> str:
    return one_line(name, limit=NAME_CHARACTERS)


def _shape(shape: Sequence[int]) -> str:
    if len(shape) != 3:
        return ""
    channels, height, width = shape
    return f"{width}x{height} pixels, {'grey' if channels == 1 else 'colour'}"


def _split(info: Mapping[str, Any], split: str) -> str:
    """The number of images of a split, of each class if that is known, and where they come from."""
    count = f"{info[SPLITS[split]]:,} images" if info.get(SPLITS[split]) else ""
    origin = one_line(str((info.get("origins") or {}).get(split, "")), limit=SOURCE_CHARACTERS)
    if not count and not origin:
        return ""
    classes = _classes(info.get("test_classes") or {}) if split == "test" else ""
    once = "read once, when the winner is known" if split == "test" else ""
    return ", ".join(filter(None, (count, origin, once))) + (f"; {classes}" if classes else "")


def _duplicates(pairs: Sequence[str] | None) -> str:
    """Say which images are in the test split and in another one."""
    if pairs is None:
        return ""
    if not pairs:
        return "no test image is also used for training or validation"
    shown = ", ".join(one_line(pair, limit=SOURCE_CHARACTERS) for pair in pairs[:NAMED_DUPLICATES])
    more = ", ..." if len(pairs) > NAMED_DUPLICATES else ""
    number = f"{len(pairs):,}{' or more' if len(pairs) == MAX_DUPLICATES else ''}"
    state = "1 test image is" if len(pairs) == 1 else f"{number} test images are"
    return f"{state} also used for training or validation, which flatters the test score: {shown}{more}"


def _resized(info: Mapping[str, Any]) -> str:
    """Say that images were resized: smaller ones may lack what tells the classes apart."""
    original, shape = info.get("original_size"), info.get("shape", ())
    if not original or len(shape) != 3 or list(original) == list(shape[1:]):
        return ""
    resized = f"images of about {original[1]}x{original[0]} pixels are resized to {shape[2]}x{shape[1]}"
    if size := info.get("image_size"):
        return f"{resized} (--image-size {size})"
    is_shrunk = original[0] * original[1] > shape[1] * shape[2]
    return resized + (f"; --image-size N keeps more, up to {MAX_IMAGE_SIZE}" if is_shrunk else "")
