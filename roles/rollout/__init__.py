"""How a run goes as a whole: the flags it refuses, the plan for all nodes, and the one line that it ends with."""
