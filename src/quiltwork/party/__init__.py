"""The owner's side: opens private data, packs it for training, computes statistics and seals the process off.

Inside the package only the command line imports this room. The wall is a convention that tests check, not
isolation; what a process can open is decided by ``party/confine.py`` and by the machine it runs on.
"""
