"""The tap cache: the taps of a split under one frozen backbone, kept on disk and shared by runs."""
