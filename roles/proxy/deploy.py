"""Put nginx's site in place and make nginx use it; what it refuses is taken back."""

from __future__ import annotations

import shlex

from pyinfra.api.host import Host

from roles.node import install, remote
from roles.node.act import Act, do
from roles.node.plan import FileChange
from roles.proxy import facts
from roles.proxy.render import CERTIFICATE, CONFIG, KEY, WEBROOT
from roles.proxy.settings import AcmeSettings
from roles.site.errors import StepError

# `nginx -t` can only judge the files in their places. So what was there is kept until nginx has agreed.
_INSTALL = f"""\
set -u; umask 077
old=$(mktemp -d) || exit 1
trap 'rm -rf -- "$old"' EXIT
for f in {CONFIG} {CERTIFICATE} {KEY}; do [ -e "$f" ] && cp -p -- "$f" "$old/"; done
sh -c "$1" || exit 1
why=$(nginx -t -q 2>&1) && exit 0
for f in {CONFIG} {CERTIFICATE} {KEY}; do
  n="$old/$(basename -- "$f")"
  if [ -e "$n" ]; then mv -f -- "$n" "$f"; else rm -f -- "$f"; fi
done
echo "nginx refused it, and what was there before is back: $why" >&2; exit 1"""

_LOAD = f"""\
set -u; umask 077; mkdir -p {facts.STATE_DIR}
before=$({facts.FINGERPRINT})
systemctl enable --quiet nginx.service
systemctl reload-or-restart nginx.service || {{ journalctl -u nginx -n 5 --no-pager -o cat >&2; exit 1; }}
echo "$before" > {facts.STAMP}.new && mv {facts.STAMP}.new {facts.STAMP}"""


def apply(host: Host, changes: list[FileChange]) -> None:
    """Install the files that differ, and make nginx read them; connections that are open stay open.

    Raises:
        StepError: nothing was changed, and why; or nginx's last lines.
    """
    installs, content = install.act(changes, _INSTALL)
    load = Act(_LOAD, told=lambda got: f"nginx could not be started or reloaded: {got.said}")
    do(host, *installs, load, stdin=content)


def certify(host: Host, name: str, settings: AcmeSettings) -> None:
    """Have certbot get a certificate, and keep renewing it (its package brings a timer).

    Raises:
        StepError: with what the directory said.
    """
    words = ["certbot", "certonly", "--non-interactive", "--agree-tos", "--webroot", "--webroot-path", WEBROOT]
    words += ["--cert-name", name, "--domain", name, "--server", settings.directory, "--key-type", "ecdsa"]
    words += ["--email", settings.email] if settings.email else ["--register-unsafely-without-email"]
    words += ["--force-renewal", "--deploy-hook", "systemctl reload nginx.service"]
    got = remote.run(host, " ".join(shlex.quote(word) for word in words), note="certbot waits for the ACME directory")
    if not got.ok:
        said = [line.strip() for line in got.stderr.splitlines() if line.strip() and "letsencrypt.log" not in line]
        raise StepError(
            f"certbot got no certificate from {settings.directory}: {' '.join(said)[-600:]} The directory must reach "
            f"http://{name}/ on this node, and the node must trust the directory. /var/log/letsencrypt/ has more."
        )
