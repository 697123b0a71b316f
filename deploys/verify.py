"""Is the site what its file says? Read-only: `pyinfra -y INVENTORY deploys/verify.py [--data format=json]`.

Exit code 0 only when everything is as declared. With `format=json` standard output is one JSON object.
"""

from roles.rollout.verify import verify

verify()
