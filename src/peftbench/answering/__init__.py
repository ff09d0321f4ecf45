"""From labelled images and minutes to a tuned model: what is tried, in which order, and what comes of it.

Every training is an ordinary run in a folder of its own. What is decided stands in `auto.json`, written whole after
each step, so that a command that was ended at any moment goes on where it was.
"""
