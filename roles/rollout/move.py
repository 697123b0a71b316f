"""Moving the mail reader: planned, or away from a node that is dead."""

from __future__ import annotations

from pyinfra import state as pyinfra_state

from roles.gitlab.render import config_file
from roles.mailroom import record
from roles.node import remote
from roles.rollout.guard import option
from roles.rollout.outcome import outcome
from roles.rollout.plan import plan
from roles.rollout.run import Run, decide, survey
from roles.site import edit
from roles.site.current import declared
from roles.site.errors import RefusedError
from roles.site.models import Site

DEPLOY = "mailroom_move.py"
"""Name of the deploy, whose `--data` is read."""
_KEY = ("mail", "reader")


def begin() -> Run:
    """The run of this process: made once, the same for every node.

    Raises:
        RefusedError: with every reason at once; nothing was touched.
    """
    return _run.get()


def _begin() -> Run:
    site, to = declared(), option(DEPLOY, "to")
    fenced = tuple(name for name in option(DEPLOY, "fenced").split(",") if name)
    wrong = _words(site, to, fenced)

    def look() -> Run:
        # With a word that is wrong nothing is planned for it: it is refused below.
        run = survey(pyinfra_state.inventory.state, to=None if wrong else to, fenced=() if wrong else fenced)
        if not wrong:
            run.after = lambda: _line(site, to)
        return run

    return decide(look, lambda run: wrong or [*_fences(run, fenced), *_other_work(run, fenced)])


def _words(site: Site, to: str, fenced: tuple[str, ...]) -> list[str]:
    """What is wrong with the words of the command."""
    if site.mail is None:
        return ["the site file has no mail section: there is no reader to move"]
    out = []
    if to not in site.rails_nodes:
        out.append(f"--data to={to or '...'}: name a node with Rails: {', '.join(site.rails_nodes)}")
    out += [f"--data fenced={name}: there is no such GitLab node" for name in fenced if name not in site.gitlab_nodes]
    if to and to in fenced:
        out.append(f"{to} cannot be both fenced and the new reader")
    if option(DEPLOY, "edit") not in ("yes", "no"):
        out.append("--data edit=... is yes or no")
    return out


def _fences(run: Run, fenced: tuple[str, ...]) -> list[str]:
    """A node that answers is not off."""
    return [
        f"{name} is said to be fenced, but it answers. A move that needs no fence also stops it there: leave it out"
        for name in fenced
        if name not in run.away
    ]


def _other_work(run: Run, fenced: tuple[str, ...]) -> list[str]:
    """A planned move does nothing else by the way. With a dead reader there is no time for that."""
    known = record.latest(run.states)
    if fenced or run.away or known is None or known.reader not in run.site.gitlab_nodes:
        return []
    assert run.site.mail is not None
    if known.reader == run.site.mail.reader:
        return []  # done already, or cut off: the same command finishes it
    before = run.site.model_copy(update={"mail": run.site.mail.model_copy(update={"reader": known.reader})})
    files = {name: config_file(before, name, name == known.reader, run.tokens.values) for name in before.gitlab_nodes}
    todo = plan(before, run.states, files, run.tokens.values, set(before.gitlab_nodes))
    other = [name for name, node in todo.nodes.items() if node.converge]
    if not other:
        return []
    return [f"{', '.join(other)}: not as the site file says. Run deploys/site.py first, then move the reader"]


def _line(site: Site, to: str) -> list[str]:
    """The site file must say so too; it is changed only on request."""
    assert site.mail is not None
    if site.mail.reader == to:
        return []
    if outcome.dry or option(DEPLOY, "edit") != "yes":
        return [f"now say `reader: {to}` in {edit.where(site.path, _KEY)}"]
    try:
        edit.scalar(site.path, _KEY, site.mail.reader, to)
    except (OSError, RefusedError) as error:
        return [f"{error}; say `reader: {to}` there"]
    return [f"{site.path} says `reader: {to}` now"]


_run = remote.Once(_begin)
