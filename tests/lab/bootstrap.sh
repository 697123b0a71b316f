#!/bin/sh
# What a fresh Debian 12 lacks for `make demo` and `make test`: says what is missing and why, and installs it as root.
set -eu

missing=
need() { # command package why
  command -v "$1" >/dev/null 2>&1 || { missing="$missing $2"; echo "missing: $1 (package $2): $3"; }
}
need python3 python3 "the program runs on Python 3.11 or newer"
need ruby ruby "gitlab.rb is Ruby: tests and the lab let real Ruby read what we write"
need puma puma "the web server of GitLab's stand-in, for its own tests"
need systemd-nspawn systemd-container "each node of the lab is a booted systemd machine"
need mmdebstrap mmdebstrap "makes the root file system of the lab's nodes"
need ip iproute2 "the lab's own network namespace"
need openssl openssl "the lab's certificate authority"
need ssh-keygen openssh-client "the key with which pyinfra reaches the nodes"
need dpkg-scanpackages dpkg-dev "the nodes' package repository"
python3 -c 'import ensurepip, venv' 2>/dev/null || { missing="$missing python3-venv"; echo "missing: python3-venv: to install uv"; }

if [ -n "$missing" ]; then
  if [ "$(id -u)" != 0 ]; then
    echo "You are not root, so these cannot be installed, and systemd-nspawn could not boot the lab's nodes either." >&2
    echo "Run the same command as root (sudo make ...), on a machine or VM that is not itself a restricted container." >&2
    exit 1
  fi
  command -v apt-get >/dev/null 2>&1 || { echo "apt-get is missing: the lab runs on Debian 12 or newer." >&2; exit 1; }
  echo "installing:$missing"
  apt-get update -qq
  # shellcheck disable=SC2086 -- a list of package names
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
if ! command -v uv >/dev/null 2>&1 && [ ! -x .venv-uv/bin/uv ]; then
  echo "installing uv into .venv-uv"
  python3 -m venv .venv-uv
  .venv-uv/bin/pip install --quiet uv
fi
