"""From the spelling of a model to a frozen network whose weights are known to be in place."""
