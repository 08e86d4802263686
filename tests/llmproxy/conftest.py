"""Settings of the property tests: as many examples as by default, and no verdict by the clock of a busy machine."""

from hypothesis import settings

settings.register_profile("no-clock", deadline=None, print_blob=True)
settings.load_profile("no-clock")
