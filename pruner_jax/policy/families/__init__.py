"""One file per family, named after the Hugging Face ``model_type``: how its config.json is read.

Each defines ``ARCHITECTURE`` (the class name in ``architectures``) and ``read(raw)``, which gives a
ModelConfig. A family whose tensors carry the usual names (see ``weights.py``) is one new file here.
"""
