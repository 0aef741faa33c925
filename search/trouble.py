"""What went wrong between here and MLflow, in words for a person: who refused whom, and what to type next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from search.errors import SearchError, TrackingError, TrackingRefusedError
from search.masking import bare, first_line

LOGIN = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or write both into ~/.mlflow/credentials "
    "(a line [mlflow], then mlflow_tracking_username = ... and mlflow_tracking_password = ...)"
)


@contextmanager
def told(uri: str, what: str | None = None) -> Iterator[None]:
    """Turn what MLflow's client raises in the block into one message; `what` was to be done."""
    import mlflow

    try:
        yield
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise tracking_error(error, uri, what) from error


def tracking_error(error: Exception, uri: str, what: str | None = None) -> SearchError:
    """What to raise for an error of MLflow's client; one that is meant for people stays as it is."""
    if isinstance(error, SearchError):
        return error
    where, before = f"MLflow at {bare(uri)}", f"{what}: " if what else ""
    if (status := status_of(error)) == 401:
        return TrackingRefusedError(f"{before}{where} wants a password: {_given(uri)} (401). To log in, {LOGIN}")
    if status == 403 and "Invalid Host header" in str(error):
        name = urlsplit(bare(uri)).netloc
        return TrackingRefusedError(
            f"{before}{where} is not to be called by that name (403). Call it as its --allowed-hosts has it, or start "
            f"it with --allowed-hosts {name}"
        )
    if status == 403:
        return TrackingRefusedError(
            f"{before}{where} does not let user {user(uri)!r} do this (403). Ask its administrator for the permission, "
            f"or log in as another user: {LOGIN}"
        )
    failed = "does not answer" if uri.startswith("http") else "cannot be used"
    return TrackingError(f"{before}{first_line(error)}" if what else f"{where} {failed}: {first_line(error)}")


def is_denied(error: Exception) -> bool:
    """Whether the server knows the user and will not let them do it, however often they ask."""
    return status_of(error) in (401, 403)


def status_of(error: Exception) -> int | None:
    """The HTTP status behind an error; None when there was no answer."""
    if (response := getattr(error, "response", None)) is not None:  # an artifact: MLflow passes requests' own error on
        return int(response.status_code)
    status = getattr(error, "get_http_status_code", None)
    return int(status()) if status else None


def user(uri: str) -> str | None:
    """Who MLflow's client says it is; None when nobody said so."""
    from mlflow.utils.credentials import read_mlflow_creds

    return read_mlflow_creds().username or urlsplit(uri).username


def _given(uri: str) -> str:
    name = user(uri)
    return "none was given" if name is None else f"the one of user {name!r} is not right"
