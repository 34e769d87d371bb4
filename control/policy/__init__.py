"""What a policy is: the core that decides, the lines that rows become, and which of them go first.
Pure: nothing is read or written here."""
