"""How fast training is: against a floor of arithmetic, against peers, and until the truth is reached."""
