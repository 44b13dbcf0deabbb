"""The error of a user's input; a leaf that every room may import."""


class UserError(ValueError):
    """Bad input. One line, "what: what is required, got what"; a command prints it and exits with 2."""
