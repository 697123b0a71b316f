"""pyinfra's view of site.yml beside this file."""

from pathlib import Path

from roles.site.inventory import pyinfra_groups

_groups = pyinfra_groups(Path(__file__).with_name("site.yml"))
gitlab = _groups["gitlab"]
rails = _groups["rails"]
mail_reader = _groups["mail_reader"]
mattermost = _groups["mattermost"]
mattermost_drill = _groups["mattermost_drill"]
