"""The call log summed up and looked after: how it is read, what the sums are, what they say."""
