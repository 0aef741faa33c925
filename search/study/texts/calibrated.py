"""Presents how the winner's probabilities were calibrated, as one line."""

from search.study.summary import FOLD_RUN, Summary, counted


def calibration_text(summary: Summary) -> str:
    """Write the temperature, its source and the expected calibration errors; "" for earlier studies."""
    if (calibration := summary.calibration) is None:
        return ""
    if calibration.missing is not None:
        return f"not calibrated, because {calibration.missing}"
    match calibration.runs[0].partition("-")[0]:
        case "confirm":
            source = counted(len(calibration.runs), "fold" if FOLD_RUN in calibration.runs[0] else "fresh seed")
        case "ensemble":
            source = "the trials' networks together, which were selected by these"
        case _:
            source = "this trial, which was selected for its value"
    splits = (("test images", calibration.test), ("validation images", calibration.validation))
    errors = [f"{each.before:.2%} -> {each.after:.2%} on {split}" for split, each in splits if each is not None]
    found = f"temperature {calibration.temperature:g}, fitted on validation predictions of {source}"
    without = f" ({calibration.left_out})" if calibration.left_out else ""
    return f"{found}{without}; expected calibration error {', '.join(errors)}"
