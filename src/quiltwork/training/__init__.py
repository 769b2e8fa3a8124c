"""Training a language model's free parameters: blocks of tokens, the loop, how it ends.

It stands below the owner's room because composed models can be tuned too, on public text.
"""
