"""How fast training is: against a floor of arithmetic, against peers, and until the truth is reached."""

from experiments import IS_COMMAND, require

if IS_COMMAND:
    require("matplotlib")
