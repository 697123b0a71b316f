"""The whole site, in order: `pyinfra -y INVENTORY deploys/site.py`."""

from pyinfra import local

local.include("deploys/gitlab.py")
local.include("deploys/mattermost.py")
local.include("deploys/backup.py")
