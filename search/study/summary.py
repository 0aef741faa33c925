"""The stored outcome of a search: its winner, the confirmation, the gains over the baselines, the classes."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from objectives.metrics import count_scores


@dataclass(frozen=True)
class Gain:
    """The winner's lead over one baseline on the validation split."""

    baseline: str
    number: int
    value: float
    gain: float  # positive when the winner is better, whatever the direction
    half: float | None = None  # half-width of its 95% interval; None without confirmation or if the noise is unknown
    seeds: int = 0  # number of trainings whose mean is `value`; 0 if it is the value of the search
    measured: str = "fresh seed"  # what each of these trainings had: a `fresh seed` or a `fold`


@dataclass(frozen=True)
class Candidate:
    """One of the best trials with the values of its configuration on fresh seeds or on folds."""

    number: int
    label: str
    searched: float  # its value in the search. Too good on average, because the trial was selected for it
    parameters: float | None  # number of weights; None if unknown
    values: tuple[float, ...]  # one for each fresh seed or fold that finished
    failed: int = 0  # number of those that failed
    half: float | None = None  # half-width of the mean's 95% interval, corrected for the selection; None if unknown
    image_error: float | None = None  # standard error of a value over draws of its images; None if unknown
    behind: bool = False  # true if it is significantly worse than the best

    @property
    def spread(self) -> float | None:
        """Standard deviation of its values; None with fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def mean(self) -> float | None:
        """Mean of its values; None without one."""
        return sum(self.values) / len(self.values) if self.values else None


FOLD_RUN = "-fold-"  # part of the name of a run that confirms a trial on a fold


@dataclass(frozen=True)
class Folds:
    """How few images are divided. Each training of a candidate leaves out one fold, which is scored."""

    number: int  # folds in a division
    n_images: int  # in all folds of a division: those for training and validation

    def describe(self, trainings: int) -> str:
        """Write on which folds a candidate is trained, such as `4 folds of all 1,438 images but the test split`."""
        if trainings < self.number:
            return f"{trainings} of {self.number} folds {self.whole}"
        divisions = math.ceil(trainings / self.number)
        return f"{trainings} folds{f' in {divisions} divisions' if divisions > 1 else ''} {self.whole}"

    @property
    def whole(self) -> str:
        """Write what is divided."""
        return f"of all {self.n_images:,} images but the test split"

    def label(self, training: int) -> str:
        """Name the fold of a training, from 1, such as `fold 2 of 4`."""
        division, fold = divmod(training - 1, self.number)
        return f"fold {fold + 1} of {self.number}{f', division {division + 1}' if division else ''}"


@dataclass(frozen=True)
class Confirmation:
    """The best trials, trained again on fresh seeds or on folds."""

    candidates: tuple[Candidate, ...]  # best of the search first
    seeds: int  # trainings planned for each candidate, with a fresh seed each
    noise: float | None  # pooled standard deviation of one value; None if no configuration has two values
    n_images: int | None = None  # validation images, if the values are shares of them; else None
    metric_range: tuple[float | None, float | None] | None = None  # as the objective says; None if it does not
    folds: Folds | None = None  # None: each candidate has its seeds on the training split

    @property
    def noun(self) -> str:
        """The word for what differs between trainings of a candidate."""
        return "fresh seed" if self.folds is None else "fold"

    def interval(self, candidate: Candidate) -> tuple[float, float] | None:
        """Return the 95% interval of a candidate's mean, clipped to the possible values if these are known.

        They are for a share of images, and for a metric with a range. A range that a mean contradicts does not count.
        """
        if candidate.mean is None or candidate.half is None:
            return None
        low, high = candidate.mean - candidate.half, candidate.mean + candidate.half
        least, most = (0.0, 1.0) if self.n_images is not None else self.metric_range or (None, None)
        if least is not None and least <= candidate.mean:
            low = max(low, least)
        if most is not None and candidate.mean <= most:
            high = min(high, most)
        return low, high


@dataclass(frozen=True)
class Score:
    """A metric of the tested network on the test split."""

    name: str  # as in `objectives.metrics`
    value: float
    low: float  # of its 95% interval
    high: float


@dataclass(frozen=True)
class ClassScore:
    """How often the tested network recognises one class of the test split."""

    name: str
    images: int  # test images of this class
    correct: int  # those of them that it recognises
    predicted: int  # all test images that it takes for this class


@dataclass(frozen=True)
class Majority:
    """The most frequent class of a split. A classifier that always answers it scores its share of the images."""

    name: str
    share: float
    is_notable: bool  # the classes are so unequal that an accuracy is misread without this share
    scores: Mapping[str, float] = field(default_factory=dict)
    """By metric, what always answering it scores; the log loss is that of always answering the shares of all classes.

    Empty in studies that were stored without it.
    """

    @classmethod
    def of(cls, names: Sequence[str], counts: Sequence[int]) -> Self:
        """Find it in the number of images of each class. Unequal means that one has 1.5 times those of another."""
        largest, n = max(counts), sum(counts)
        index = counts.index(largest)
        predicted, correct = ([size if i == index else 0 for i in range(len(counts))] for size in (n, largest))
        entropy = math.fsum(count / n * math.log(n / count) for count in counts if count)
        scores = {str(metric): score for metric, score in count_scores(counts, predicted, correct).items()}
        return cls(names[index], largest / n, largest > 1.5 * min(counts), scores | {"log_loss": entropy})


@dataclass(frozen=True)
class CalibrationErrors:
    """Expected calibration errors of one split's predictions."""

    before: float  # of the probabilities as the networks were trained
    after: float  # of the calibrated ones


@dataclass(frozen=True)
class Calibration:
    """How the probabilities of the tested and registered network were calibrated."""

    temperature: float = 1.0  # the logits are divided by it; 1 leaves the probabilities as they are
    runs: tuple[str, ...] = ()  # the trainings whose validation predictions it was fitted on; none if it was not
    validation: CalibrationErrors | None = None  # of those; None if it was not fitted
    test: CalibrationErrors | None = None  # of the tested network
    missing: str | None = None  # why it was not fitted; None if it was
    left_out: str | None = None  # which of the trainings it was not fitted on, and why; None if on all

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` gave."""
        splits = ("validation", "test")
        errors = {split: CalibrationErrors(**given) for split in splits if (given := stored[split])}
        return cls(**{**stored, "runs": tuple(stored["runs"]), **errors})


@dataclass(frozen=True)
class Member:
    """A network of an ensemble."""

    number: int  # its trial
    label: str
    run: str  # the journal's name for the run that trained it: its trial or, if members were refitted, its refit
    picks: int  # how often the selection took it; its weight is that share of all picks
    parameters: float | None = None  # number of weights; None if unknown


@dataclass(frozen=True)
class Ensemble:
    """Networks of several trials, whose probabilities are averaged. The first is the winner's."""

    members: tuple[Member, ...]
    gain: float  # over the winner alone on validation images; positive when it is better, whatever the direction
    error: float  # standard error of the gain
    n_images: int  # validation images
    n_candidates: int  # trials from which the members were taken

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` gave."""
        return cls(**{**stored, "members": tuple(Member(**member) for member in stored["members"])})

    @property
    def pays(self) -> bool:
        """Whether it has several members, and its gain is more than its standard error."""
        return len(self.members) > 1 and self.gain > self.error

    @property
    def shares(self) -> tuple[float, ...]:
        """Weights of the members, which add up to 1."""
        total = sum(member.picks for member in self.members)
        return tuple(member.picks / total for member in self.members)

    @property
    def parameters(self) -> float | None:
        """Number of weights of all members together; None if one is unknown."""
        counts = [member.parameters for member in self.members if member.parameters is not None]
        return sum(counts) if len(counts) == len(self.members) else None

    @property
    def run(self) -> str:
        """The journal's name for its run, another one for other members or other weights."""
        return "-".join(["ensemble", *(f"{member.run}-x{member.picks}" for member in self.members)])


@dataclass(frozen=True)
class Summary:
    """The outcome of a finished search."""

    number: int  # the winning trial
    label: str
    value: float  # its validation metric in the search
    params: Mapping[str, Any]
    run: str  # the journal's name for the run whose network is tested and registered
    gains: tuple[Gain, ...] = ()
    test: Mapping[str, float] | None = None
    """`accuracy`, `low`, `high` (95% Wilson interval), `loss`, `n`; None without a test split."""
    scores: tuple[Score, ...] = ()
    """All metrics on the test split, in the order of `objectives.metrics.METRICS`; empty in earlier studies."""
    calibration: Calibration | None = None  # None without a test split, and in earlier studies: nothing was calibrated
    confusion: Sequence[Sequence[int]] | None = None
    """Test images by true class (rows) and predicted class (columns); None if there are too many classes."""
    classes: tuple[ClassScore, ...] = ()  # all classes, in the order of the network's outputs
    majorities: Mapping[str, Majority] = field(default_factory=dict)
    """By split, `validation` and `test`; without `validation` if the metric is not one of a classifier's."""
    model: Mapping[str, Any] | None = None  # `name`, `version`, `alias`, `uri`; None if nothing was registered
    has_no_model: bool = False  # true if the winner is a function's and logged no model: nothing can be registered
    confirmation: Confirmation | None = None  # None with `--confirm 0`
    ensemble: Ensemble | None = None  # the tested and registered network, if it is not the winner's alone
    refit: Mapping[str, Any] | None = None  # `epochs`, `seconds`, `images` of the refit; None if there was none
    note: str | None = None  # deviations from the plan, such as a refit that failed
    standing: str | None = None
    """Why the model is not the champion or not registered; None if it is, or if that was not requested."""

    def noted(self, text: str) -> Self:
        """Return a copy with `text` added to the note."""
        return replace(self, note=f"{self.note}; {text}" if self.note else text)

    def with_ensemble(self, ensemble: Ensemble) -> Self:
        """Return a copy whose tested and registered network is an ensemble."""
        return replace(self, ensemble=ensemble, run=ensemble.run)

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain JSON values, as stored in the study."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        values = dict(stored)
        values["gains"] = tuple(Gain(**gain) for gain in values.get("gains", ()))
        values["scores"] = tuple(Score(**score) for score in values.get("scores", ()))
        values["classes"] = tuple(ClassScore(**score) for score in values.get("classes", ()))
        values["majorities"] = {split: Majority(**stored) for split, stored in values.get("majorities", {}).items()}
        if calibrated := values.get("calibration"):
            values["calibration"] = Calibration.from_dict(calibrated)
        if chosen := values.get("ensemble"):
            values["ensemble"] = Ensemble.from_dict(chosen)
        if confirmed := values.get("confirmation"):
            candidates = tuple(Candidate(**{**c, "values": tuple(c["values"])}) for c in confirmed["candidates"])
            possible = confirmed.get("metric_range")
            folds = Folds(**stored_folds) if (stored_folds := confirmed.get("folds")) else None
            replaced = {"candidates": candidates, "metric_range": tuple(possible) if possible else None, "folds": folds}
            values["confirmation"] = Confirmation(**{**confirmed, **replaced})
        return cls(**values)

    @property
    def confirmed(self) -> Candidate | None:
        """The winner among the candidates; None if no training of it finished."""
        candidates = self.confirmation.candidates if self.confirmation else ()
        return next((c for c in candidates if c.number == self.number and c.values), None)

    @property
    def score(self) -> float:
        """The winner's confirmed mean on the validation split, or its value in the search without one."""
        mean = self.confirmed.mean if self.confirmed else None
        return self.value if mean is None else mean

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the winner's confirmed mean; None if unknown."""
        return self.confirmation.interval(self.confirmed) if self.confirmation and self.confirmed else None

    @property
    def network(self) -> str:
        """Which training made the tested and registered network: `trial`, `confirm` or `refit`; or `ensemble`."""
        return self.run.partition("-")[0]

    @property
    def temperature(self) -> float:
        """The divisor of the logits in the tested and registered network."""
        return self.calibration.temperature if self.calibration else 1.0

    def figures(self, metric: str) -> dict[str, float]:
        """Return the winner's figures by name; those that begin with `test_` belong to the registered network alone."""
        figures = {f"best_{metric}": self.value}
        if self.confirmed:
            figures[f"confirmed_{metric}"] = self.score
        if self.ensemble:
            figures |= {"ensemble_gain": self.ensemble.gain, "ensemble_gain_error": self.ensemble.error}
        accuracy = {"test_accuracy": self.test["accuracy"]} if self.test else {}
        return figures | accuracy | self.tested_figures()

    def tested_figures(self) -> dict[str, float]:
        """Return the metrics on the test split, the temperature, and calibration errors (ECE) with it and without."""
        figures = {f"test_{score.name}": score.value for score in self.scores}
        if (calibration := self.calibration) is None:
            return figures
        figures["temperature"] = calibration.temperature
        for split, errors in (("val", calibration.validation), ("test", calibration.test)):
            if errors is not None:
                figures |= {f"{split}_ece": errors.after, f"{split}_ece_uncalibrated": errors.before}
        return figures


def counted(n: int, thing: str) -> str:
    """Write a number with its noun, such as `1 fresh seed` or `2 fresh seeds`."""
    return f"{n} {thing}{'' if n == 1 else 's'}"
