"""Tells folders of images, and npz files, with the same last name apart: each has a study and a model of its own."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from objectives.base import ImageClassifier, Objective
from objectives.data.names import dataset_slug, has_path
from search.commands.studies import stored_studies
from search.common.config import Config
from search.common.errors import StorageError
from search.study import records

MAX_FOLDERS = 3  # how many folders of a path a name may have
MAX_CHARACTERS = 80  # in a name made of several folders


class _Owner(NamedTuple):
    """A study that uses a name, for itself or for its model."""

    name: str
    digest: str | None  # of its images
    source: str | None  # the folder or file of its images


def tell_apart(config: Config, objective: Objective) -> str | None:
    """Give the objective another name if a study of another folder or file uses its name. Returns a notice about it.

    It is the same if it holds the same images, wherever it is now, or if it is in the same place; in that case
    `open_study` refuses images that have changed. Objectives that choose their own name keep it; the name of their
    class may follow the dataset's.
    """
    if not isinstance(objective, ImageClassifier):
        return None
    info, plain = objective.dataset_info(), objective.name
    slug = dataset_slug(info["name"])
    if not has_path(info["name"]) or plain not in (slug, f"{slug}-{type(objective).__name__}"):
        return None
    ending, owners = plain.removeprefix(slug), list(_owners(config))
    kind = info["name"].partition(":")[0]
    names = [f"{name}{ending}" for name in _names(kind, info["source"])]
    objective.name = _choose(names, owners, info["digest"], info["source"])
    is_used = config.study is None or (config.register is None and not config.no_register)
    if objective.name == plain or not is_used:
        return None
    other = next((owner.source for owner in owners if owner.name == plain and owner.source), "other data")
    what = "study and model" if config.study is None else "model"
    return f"{plain} belongs to {other}; {what} of {info['source']}: {objective.name}"


def model_names(dataset: str) -> list[str]:
    """The names that a dataset's model may have by default, the likeliest first.

    Folders with the same last name have models with more of their path in the name.
    """
    return list(dict.fromkeys(dataset_slug(dataset, depth) for depth in range(1, MAX_FOLDERS + 1)))


def _choose(names: list[str], owners: list[_Owner], digest: str, source: str) -> str:
    """The name that this folder has already, or else the first that nothing has."""
    for owned in ((o.name for o in owners if o.digest == digest), (o.name for o in owners if o.source == source)):
        if known := set(owned) & set(names):
            return next(name for name in names if name in known)
    taken = {owner.name for owner in owners}
    return next((name for name in names if name not in taken), names[-1])


def _names(kind: str, source: str) -> Iterator[str]:
    """The names that data of a kind may have: `folder-pets`, `folder-b-pets`, and at last one that only it can have."""
    depth = max(1, min(MAX_FOLDERS, len(Path(source).parts) - 1))
    plain, *longer = (dataset_slug(f"{kind}:{source}", n) for n in range(1, depth + 1))
    yield plain
    yield from (name for name in longer if len(name) <= MAX_CHARACTERS)
    yield f"{plain[:MAX_CHARACTERS]}-{hashlib.sha256(os.fsencode(source)).hexdigest()[:8]}"


def _owners(config: Config) -> Iterator[_Owner]:
    with contextlib.suppress(StorageError):  # there is none yet; or the search itself will say what is wrong with it
        for study in stored_studies(config).get_all_studies():
            attrs = study.user_attrs
            if records.UID not in attrs:  # a study of another program
                continue
            digest = attrs.get(records.FINGERPRINT, {}).get("dataset")
            source = (attrs.get(records.PROVENANCE, {}).get("dataset") or {}).get("source")
            model = (attrs.get(records.SUMMARY, {}).get("model") or {}).get("name")
            if records.FINGERPRINT in attrs:  # without it, a search was killed while it made the study
                yield from (_Owner(name, digest, source) for name in dict.fromkeys((study.study_name, model)) if name)
