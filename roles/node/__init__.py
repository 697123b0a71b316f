"""The node bundle: what is on a node, what differs from what is declared, and putting it there.

Every other role hands this one a :class:`~roles.node.bundle.Bundle` (files it wants, questions it
asks) and gets back one :class:`~roles.node.facts.NodeState` per node. See `bundle`, `facts`, `plan`,
`diff`, `install` and `remote`.
"""
