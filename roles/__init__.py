"""The product: one package for each thing that is managed, and `site`, `node` and `rollout` under all of them."""

import sys

# pyinfra (3.10, pyinfra_cli/main.py) keeps the interpreter from writing bytecode, for the sake of deploy files. All of
# ours would be compiled again in every run. What an operator says by PYTHONDONTWRITEBYTECODE holds.
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)
