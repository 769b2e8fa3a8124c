"""Tensors as bytes on their way from file to file: read, added, hashed and written in constant memory, by numpy alone.

``layout`` says where tensors lie in a safetensors file, ``header`` reads that from a file that nobody vouches for,
``place`` is one tensor of a file, ``numbers`` turns bytes into numbers and back, ``sums`` adds weighted tensors up, and
``writing`` makes files of them. Nothing here knows what a model is, and nothing imports torch.
"""
