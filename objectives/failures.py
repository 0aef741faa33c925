"""The text of an exception of an objective. It can always be made, sent and stored.

Exceptions themselves stay where they were raised: other processes may lack their class, and some cannot be pickled.
"""


def describe_error(error: BaseException) -> str:
    """The kind of an exception and its text, such as `ValueError: the spoon is bent`. Never raises."""
    name = type(error).__name__
    if isinstance(error, SystemExit):
        status = "" if error.code is None else describe_value(error.code)
        return f"{name}: sys.exit({status}) was called"
    try:
        text = str(error).strip()
        if isinstance(error, BaseExceptionGroup):
            text = "; ".join([text, *map(describe_error, error.exceptions)])
    except BaseException as broken:
        text = f"its text cannot be made, because {type(broken).__name__} was raised"
    return f"{name}: {text}" if text else name


def describe_value(value: object, limit: int = 200) -> str:
    """The representation of a value on one line, cut after `limit` characters. Never raises."""
    try:
        text = " ".join(repr(value).split())
    except BaseException as broken:
        return f"a {type(value).__name__} (its repr raises {type(broken).__name__})"
    return text if len(text) <= limit else f"{text[:limit]} ..."
