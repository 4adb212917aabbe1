"""Training and serving of large models. Importing this package alone does not import torch."""
