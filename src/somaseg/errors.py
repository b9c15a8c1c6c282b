"""The one error that users see."""


class SomasegError(ValueError):
    """Something in the user's input is wrong.

    The message is one line that names the file (and row) and says what to do. The command line
    prints it after ``error:`` and exits with code 2; anything else that escapes is a bug of ours.
    """
