"""The error for a user's bad input; every room may import this file, which imports none."""


class UserError(ValueError):
    """Bad input. One line, "NAME: must be WHAT, got GOT"; a command prints it and exits with 2."""


def require(condition: object, name: str, what: str, got: object) -> None:
    """UserError unless `condition` holds: `--epochs: must be at least 1, got 0`.

    `name` is an option, a file or a field as the user wrote it; `what` completes "must be".
    """
    if not condition:
        raise UserError(f"{name}: must be {what}, got {got}")
