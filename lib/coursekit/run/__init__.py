"""A lesson runs: the engine, the card that says with what and with which results, and whether it is still current."""
