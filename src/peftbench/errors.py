"""Where methods and data sets from outside found the errors before `peftbench.UserError` and `peftbench.Refusal`."""

from peftbench.common.errors import Refusal, UserError, nearest

__all__ = ["Refusal", "UserError", "nearest"]
