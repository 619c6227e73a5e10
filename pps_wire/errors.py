"""The one error of the contract."""


class WireError(Exception):
    """Bytes or names that do not obey the contract; whoever sent them mends them.

    ``where`` names the field, line or path at fault, e.g. ``manifest line 12`` or ``vo``.
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem
