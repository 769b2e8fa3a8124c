"""Secrets that no one holds alone: custody of parameters, inference by a threshold, sums without their summands.

Two fields carry it: bytes (`quiltwork.sharing.byte_field`) for keys, a large prime (`quiltwork.sharing.prime_field`)
for arithmetic on shares. What talks over a channel lies above, in ``session``.
"""
