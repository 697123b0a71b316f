"""The one pyinfra operation of the product: a named step that every node takes together.

pyinfra orders operations across nodes only where every node calls the same operation on the same line; a failed node
does not stop the others by itself (pyinfra 3.10). So each step is called for all nodes, does something only where
there is something to do, and a failure ends the run because the inventory sets `FAIL_PERCENT = 0`.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Generator
from functools import partial

from pyinfra import logger
from pyinfra.api import operation, util
from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State

from roles.rollout.lock import lock
from roles.rollout.outcome import outcome
from roles.site.errors import StepError
from roles.site.secret import scrub

# To put operations in order pyinfra (3.10) wants the line number of every frame on the stack, and has inspect look up
# the source around each, twice: 60 % of what a step costs on each node.
util.stack = partial(inspect.stack, 0)
util.getframeinfo = partial(inspect.getframeinfo, context=0)

Action = Callable[[Host], None]
"""What a step does on one node. It raises `StepError` (cause and cure) when it fails."""


@operation()
def step(action: Action | None) -> Generator[FunctionCommand, None, None]:
    """Do `action` on this node; None: this node has nothing to do in this step, but waits for those that have."""
    if action is not None:
        yield FunctionCommand(_act, (action,), {})


def _act(state: State, host: Host, action: Action) -> bool:
    try:
        lock.demand()
        action(host)
    except StepError as error:
        message = scrub(str(error))
        outcome.failed(f"{host.name}: {message}")
        host.log_styled(message, fg="red", log_func=logger.error)
        return False
    except Exception:  # pyinfra would print it with its arguments, and those may hold secrets
        outcome.failed(f"{host.name}: an unexpected error (traceback above)")
        host.log_styled(scrub(traceback.format_exc()), fg="red", log_func=logger.error)
        return False
    return True
