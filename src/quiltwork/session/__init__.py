"""Many talks: compositions that need live parties.

``frames`` says what may cross, byte by byte; ``channel`` carries it by four verbs and logs it; what is learned over it
lives in rooms of its own.
"""
