"""A task from outside peftbench: how much ink an image holds, one number."""
