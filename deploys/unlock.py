"""Break the lock of a run whose machine is gone for good: `pyinfra -y INVENTORY deploys/unlock.py --data break=yes`.

Without `break=yes` it only says who has the lock. A run that ends, or is killed, gives its lock back by itself; this is
for a machine that vanished with its connections still open.
"""

from roles.rollout.unlock import begin, unlock

run = begin()

if run:
    unlock(run)
