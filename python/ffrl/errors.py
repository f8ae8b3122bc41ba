"""Errors that the user can mend."""


class UserError(ValueError):
    """Something about an argument or a file is wrong; the message names it, what was expected and what was found.

    The command line prints the message as one line and exits with code 2.
    """


class NoRoomError(UserError):
    """No sequence of a data set has room for what was asked to move; other things of it may still be measured."""
