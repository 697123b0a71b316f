"""One run over Mattermost's node: look at it once, decide, and act in steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pyinfra import host, logger
from pyinfra import state as pyinfra_state
from pyinfra.api.host import Host
from pyinfra.api.state import State

from roles.mattermost import application, facts, plugin, render, sign_on, slash
from roles.mattermost.plan import Database, MattermostPlan, plan
from roles.mattermost.settings import MattermostSettings
from roles.node import remote
from roles.node.bundle import Bundle, File, Question
from roles.node.facts import NodeState
from roles.node.tunnel import tunnel
from roles.postgresql.facts import prove
from roles.proxy import facts as proxy_facts
from roles.proxy import render as proxy
from roles.rollout import backup
from roles.rollout.diff import show
from roles.rollout.guard import deploys, strict
from roles.rollout.lock import lock
from roles.rollout.outcome import outcome
from roles.site.current import current
from roles.site.errors import RefusedError, StepError
from roles.site.models import Site
from roles.site.secret import Secret

if TYPE_CHECKING:
    from roles.postgresql.admin import Server

PART = "mattermost"
"""Name of this part of a run in the outcome."""


@dataclass
class MattermostRun:
    """What is known of Mattermost in this run."""

    site: Site
    """As declared."""
    state: State
    """pyinfra's state."""
    found: NodeState | str
    """The node as found; a string is the reason why it could not be read."""
    plan: MattermostPlan = field(default_factory=MattermostPlan)
    """What is to be done."""
    proven: bool = False
    """This run has seen that the application's role gets into its database from the node."""

    @property
    def settings(self) -> MattermostSettings:
        """The section `mattermost` of the site file."""
        assert self.site.mattermost is not None
        return self.site.mattermost

    @property
    def node(self) -> str:
        """Name of Mattermost's node."""
        return str(self.site.mattermost_node)

    @property
    def here(self) -> bool:
        """True in the greenlet of Mattermost's node."""
        return str(host.name) == self.node

    @property
    def server(self) -> Host:
        """Mattermost's node."""
        return self.state.inventory.get_host(self.node)

    @property
    def rails(self) -> Host:
        """The Rails node that is asked about the OAuth application."""
        return self.state.inventory.get_host(self.site.rails_nodes[0])

    @property
    def work(self) -> bool:
        """False when everything is as declared: then there are no steps."""
        return self.plan.work

    @property
    def looks_at_application(self) -> bool:
        """Whether this run looks at the OAuth application in GitLab. Through the API that is quick; gitlab-rails runner
        takes half a minute, too long for every run of site.py."""
        wanted = self.settings.sign_on
        return bool(wanted and wanted.api_token) or bool({"mattermost.py", "verify.py"} & set(deploys))

    @property
    def database_password(self) -> Secret:
        """Password of the application's role."""
        return self.site.secret(self.settings.database.password)

    @property
    def database_ca(self) -> Path | None:
        """The database's certificate authority, a file here."""
        return self.site.file(self.settings.database.ca) if self.settings.database.ca else None

    @property
    def credentials(self) -> application.Credentials | None:
        """Id and secret of the OAuth application for sign-on, as they are kept now."""
        if self.settings.sign_on is None:
            return None
        return application.credentials(self.site, application.for_sign_on(self.site))

    def files(self) -> tuple[File, ...]:
        """The server's files, with the credentials of sign-on as they are kept now."""
        return render.files(self.site, self.credentials)

    def proxy_files(self, https: bool = True) -> tuple[File, ...]:
        """nginx's files.

        Args:
            https: False before certbot has a certificate.
        """
        wanted = self.settings
        ipv6 = isinstance(self.found, str) or proxy_facts.ipv6(self.found)
        size = wanted.settings.get("FileSettings", {}).get("MaxFileSize", proxy.MAX_FILE_SIZE)
        config = proxy.config_file(
            wanted.host,
            wanted.port,
            max_file_size=size,
            hsts=wanted.proxy.hsts,
            ipv6=ipv6,
            acme=wanted.proxy.acme is not None,
            https=https,
        )
        if not (wanted.proxy.certificate and wanted.proxy.key):
            return (config,)
        pem = self.site.file(wanted.proxy.certificate).read_bytes()
        return (config, *proxy.pair(pem, self.site.secret(wanted.proxy.key)))

    def look_at(self, files: tuple[File, ...]) -> NodeState:
        """Look at the node afresh, for these files.

        Raises:
            StepError: when it cannot be read.
        """
        found = remote.look(self.state, self.server, Bundle(files))
        if isinstance(found, str):
            raise StepError(f"the node could not be looked at: {found}. Run again.")
        return found

    def make_database(self) -> None:
        """Make what is missing of role and database.

        Raises:
            StepError: with what the server said.
        """
        with self.administrator() as server:
            server.make()

    @contextmanager
    def administrator(self) -> Iterator[Server]:
        """The database server as its administrator sees it, reached as the site file says."""
        from roles.postgresql.admin import Address, Server  # psycopg is slow to load

        wanted = self.settings.database
        assert wanted.admin is not None
        passwords = (self.site.secret(wanted.admin.password).reveal(), self.database_password.reveal())
        if wanted.admin.through is None:
            yield Server(wanted, *passwords, self.database_ca)
            return
        with tunnel(self.state.inventory.get_host(wanted.admin.through), wanted.host, wanted.port) as port:
            yield Server(wanted, *passwords, self.database_ca, Address("127.0.0.1", port))

    def database(self, found: NodeState) -> Database:
        """What is to be done about the database: nothing when the application's role gets in from its node."""
        wanted, why = self.settings.database, ""
        if "postgresql-client" not in facts.absent(found):
            try:
                proof = prove(self.server, wanted, self.database_password, self.database_ca)
                self.proven = True
                return Database(major=proof.major)
            except StepError as error:
                why = str(error)
        if wanted.admin is None:
            return Database(refused=why)
        try:
            with self.administrator() as server:
                todo = server.missing(server.look())
        except StepError as error:
            return Database(refused=str(error))
        # The role gets in from here, but not from the node: nothing that an administrator's SQL could put right.
        return Database(tuple(todo), refused="" if todo else why)

    def finish(self) -> None:
        """The run is at its end and everything is as declared."""
        outcome.end("changed", self.node, part=PART)


def survey(state: State, more: tuple[Question, ...] = ()) -> MattermostRun | None:
    """Look at Mattermost's node, without deciding anything; None when the site has none.

    Where the backups come next in the same command, they are asked for in the same look.

    Args:
        more: further questions.
    """
    site = current()
    if site.mattermost is None or site.mattermost_node is None:
        return None
    run = MattermostRun(site, state, "")
    asked = facts.questions(site.mattermost) + proxy_facts.questions(site.mattermost.proxy, site.mattermost.host) + more
    if "verify.py" in deploys:
        asked += facts.health_questions()
    bundle = Bundle((*run.files(), *run.proxy_files()), asked)
    together = bool({"site.py", "verify.py"} & set(deploys)) and site.mattermost.backup is not None
    if together:
        bundle += backup.bundle(site)
    run.found = remote.look_all(state, {site.mattermost_node: bundle})[site.mattermost_node]
    backup.seen[:] = [run.found] if together else []
    return run


def begin() -> MattermostRun | None:
    """The run of this process: made once, the same for every node. None when there is nothing to do.

    Raises:
        RefusedError: with every reason at once; nothing was touched.
    """
    return _run.get()


def _begin() -> MattermostRun | None:
    state = pyinfra_state.inventory.state
    run = survey(state)
    strict(state)
    if run is None:
        outcome.end("as declared", part=PART)
        return None
    if not state.is_host_in_limit(run.server):
        outcome.end("as declared", f"{run.node} is left out by --limit", part=PART)
        return None
    refused = (run.found,) if isinstance(run.found, str) else _decide(run, run.found)
    if refused:
        outcome.refused([f"{run.node}: {reason}" for reason in refused])
        raise RefusedError("nothing was touched:\n" + "\n".join(f"  - {run.node}: {reason}" for reason in refused))
    if not run.work:
        outcome.end("as declared", f"nothing to do for Mattermost on {run.node}", part=PART)
        return None
    if not lock.mine(state, run.site.gitlab_nodes):
        return _begin()
    summary = run.plan.summary()
    for line in summary:
        logger.info(f"    {run.node}: {line}")
    if state.config.DIFF or outcome.dry:
        show(run.server, [*run.plan.changes, *run.plan.site])
    outcome.begin(PART, changes={run.node: summary})
    if outcome.dry:
        outcome.end("would change", f"{run.node} (nothing was touched)", part=PART)
    return run


def _decide(run: MattermostRun, found: NodeState) -> tuple[str, ...]:
    database = run.database(found)
    repair, failed = _sign_on(run, found) if run.settings.sign_on else ("", "")
    run.plan = plan(
        run.settings,
        found,
        run.files(),
        run.proxy_files(),
        run.settings.identity(run.site.dir),
        database,
        repair,
        failed,
        *_integrations(run, found),
    )
    return run.plan.refused


def _integrations(run: MattermostRun, found: NodeState) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What of the GitLab plugin, and of the slash commands, is not as declared."""
    wanted = run.settings
    if facts.service(found).active:
        return tuple(plugin.look(run)), tuple(slash.look(run))
    absent = "Mattermost does not run yet"
    return (absent,) if wanted.gitlab_plugin else (), (absent,) if wanted.slash_commands else ()


def _sign_on(run: MattermostRun, found: NodeState) -> tuple[str, str]:
    """Why the OAuth application has to be made or repaired, and what else of sign-on does not work."""
    known = run.credentials
    if known is None:
        return "there are no credentials yet", ""
    if not facts.service(found).active:
        return "", ""  # tried when the server runs
    seen: application.Application | str | None = None
    if run.looks_at_application:
        try:
            seen = application.look(run.site, application.for_sign_on(run.site), run.rails)
        except StepError as error:
            seen = str(error)
    failed = [check for check in sign_on.walk(run.site, run.server, known, seen) if not check.ok]
    if not failed:
        return "", ""
    sentence = f"{failed[0].subject}: {failed[0].found}"
    broken = failed[0].subject in (sign_on.WRONG_SECRET, sign_on.APPLICATION) and not isinstance(seen, str)
    return (sentence, "") if broken else ("", sentence)


_run = remote.Once(_begin)
