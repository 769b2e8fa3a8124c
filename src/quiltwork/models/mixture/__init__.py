"""Statistical mixtures of experts: the density of a response given covariates, as one softmax gate and K small models.

    f(y | x) = sum_k pi_k(x) phi_k(y | x)

``gates`` says pi, ``experts`` says phi, ``mixture`` is the two together and all that can be asked of them. Nothing here
knows about parties; NumPy in float64 throughout.
"""
